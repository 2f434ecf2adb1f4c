"""Download a file; go on where an earlier transfer broke off. No torch."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from ddbench.datasets.info import DatasetError, UnreachableError
from ddbench.utils.files import locked

RETRIES = 3  # of a transfer that broke off
TIMEOUT = 60  # seconds without a byte
HUB = "https://huggingface.co"
NO_RANGE = "requested byte range"  # gdown's words where a server does not send the rest of a file


def download_file(address: str, path: Path, checksum: str, quiet: bool) -> None:
    """Download a file unless it exists; continue an interrupted download.

    address: one of the Hugging Face hub obeys HF_ENDPOINT and HF_HUB_OFFLINE, as the hub's own client does.
    checksum: "SHA-256 <hex>" or "MD5 <hex>", empty if none is published.

    Raises DatasetError if the address does not answer, or sends another file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.exists():
            return
        partial = path.with_name(f"{path.name}.arriving")
        _transfer(address, partial, quiet)
        kind, _, expected = checksum.partition(" ")
        if expected:
            with open(partial, "rb") as file:
                actual = hashlib.file_digest(file, kind.replace("-", "").lower()).hexdigest()
            if actual != expected:
                partial.unlink()
                raise DatasetError(
                    f"{address} sent a file with {kind} {actual}, not {expected}. It was deleted. Try again. If the "
                    "error remains, the published file has changed."
                )
        partial.rename(path)


def _transfer(address: str, path: Path, quiet: bool) -> None:
    import gdown  # requests: half a second
    import requests
    from huggingface_hub import constants

    if address.startswith(f"{HUB}/"):
        if constants.HF_HUB_OFFLINE:
            raise UnreachableError(
                f"HF_HUB_OFFLINE forbids to download {address}.\n"
                "Unset it, or get the file elsewhere and use --from FILE."
            )
        address = constants.ENDPOINT + address.removeprefix(HUB)
    options = {"quiet": quiet, "resume": True, "use_cookies": False, "timeout": TIMEOUT, "retries": RETRIES}
    try:
        try:
            gdown.download(address, str(path), **options)
        except gdown.exceptions.DownloadError as error:
            if NO_RANGE not in str(error):
                raise
            # the part is the whole file, of a process that was killed before it named it; or the server sends no parts
            for part in path.parent.glob(f"{glob.escape(path.name)}????????.part"):
                part.unlink()
            gdown.download(address, str(path), **options)
    except (gdown.exceptions.DownloadError, requests.exceptions.RequestException) as error:
        raise UnreachableError(
            f"{address} cannot be downloaded ({error}).\n"
            "Repeat the command to continue, or get the file elsewhere and use --from FILE."
        ) from None
