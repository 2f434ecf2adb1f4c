"""`hf:OWNER/NAME`: image-classification sets of the Hugging Face hub, as class folders. No torch.

A set is downloaded once, at the newest revision of that day, and its files are written unchanged into class folders
below HF_HOME. From then on it is a dataset like any other. The revision is part of the split's rule, and so of every
result. An older revision cannot be chosen. Images without a class are left out.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ddbench.datasets.name import HUB
from ddbench.datasets.source import ClassFolders, folder_source, split_words
from ddbench.errors import UserError
from ddbench.utils.files import make_once, read_json, write_json

log = logging.getLogger("ddbench")

CARD, SIDES = "hub.json", "sides.csv"  # files beside the images
TEST = ("test", "validation", "valid", "val")  # names of splits to test on: the first that the set has


def hub_source(repo: str) -> ClassFolders:
    """Return the source of `hf:OWNER/NAME`, downloaded now if it never was. repo: OWNER/NAME.

    A training split and a test split (else validation) of the set are the two sides; without both, 80 % train. Raises
    UserError without the library `datasets`, for a name of another form, and if the hub cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"{HUB}{repo}: write hf:OWNER/NAME, as in hf:torchgeo/ucmerced")
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "ddbench" / repo.replace("/", "--")
    make_once(folder, lambda partial: _export(repo, partial))
    card, images = read_json(folder / CARD), folder / "images"
    return ClassFolders(
        name=f"{HUB}{repo}",
        title=f"{repo} of the Hugging Face hub",
        classes=tuple(card["classes"]),
        readable=tuple(split_words(label) for label in card["names"]),
        counts=None,
        pixels=folder_source(images).pixels,
        resolution="unknown",
        licence=card["licence"],
        homepage=f"https://huggingface.co/datasets/{repo}",
        citation="see its card",
        folders=(str(images),),
        split=str(folder / SIDES) if card["sides"] else "",
        revision=card["revision"],
    )


def _export(repo: str, folder: Path) -> None:
    """Write the set's images, card and sides to `folder`."""
    revision, licence = _revision(repo)
    data = _load(repo, revision)
    import datasets

    picture, label = _columns(repo, next(iter(data.values())).features)
    names = next(iter(data.values())).features[label].names
    classes = [re.sub(r"[/\\\0]", "-", name).strip(". ") or "unnamed" for name in names]
    written: dict[str, list[str]] = {part: [] for part in data}
    for part, rows in data.items():
        raw = rows.cast_column(picture, datasets.Image(decode=False))
        for number, row in enumerate(tqdm(raw, desc=f"writing {part}", leave=False, dynamic_ncols=True, disable=None)):
            if row[label] is None or row[label] < 0:  # the hub's mark of an image without a class
                continue
            image = row[picture]["bytes"] or Path(row[picture]["path"]).read_bytes()
            path = Path(classes[row[label]]) / f"{part}-{number:06d}{_suffix(image)}"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).write_bytes(image)
            written[part].append(path.as_posix())
    for part, files in written.items():
        if unlabelled := len(data[part]) - len(files):
            log.warning("hf:%s: %d images of the split %s have no class and are omitted", repo, unlabelled, part)
    sides = _write_sides(folder / SIDES, written)
    card = {"classes": classes, "names": names, "revision": revision, "licence": licence, "sides": sides}
    write_json(folder / CARD, card)


def _write_sides(path: Path, written: Mapping[str, Sequence[str]]) -> bool:
    """Write the set's own sides as a CSV file; return False if it lacks a training split or one to test on."""
    test = next((part for part in TEST if written.get(part)), "")
    sides = {"train": written.get("train", ()), "test": written.get(test, ())}
    if not all(sides.values()):
        return False
    with open(path, "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("file", "split"), *((name, side) for side in sides for name in sides[side])])
    return True


def _revision(repo: str) -> tuple[str, str]:
    """Return the newest revision's hash and the licence on the set's card."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(repo)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"hf:{repo}: the Hugging Face hub does not find it ({reason}). Check the name and the network."
        ) from None
    return info.sha, str(getattr(info.card_data, "license", None) or "not stated")


def _load(repo: str, revision: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"hf:{repo} needs the library `datasets`: pip install 'ddbench[hf]'") from None
    try:
        return datasets.load_dataset(repo, revision=revision)
    except Exception as error:  # the hub, the network and the set raise errors of several libraries
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"hf:{repo} at revision {revision[:8]} cannot be loaded: {reason[0]}") from error


def _columns(repo: str, features: Any) -> tuple[str, str]:
    """Return the names of the columns with images and with classes."""
    import datasets

    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not pictures or not labels:
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
        raise UserError(f"hf:{repo} needs a column of images and one of classes; it has {columns}")
    return pictures[0], "label" if "label" in labels else labels[0]


def _suffix(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format or ""  # Pillow has it of whatever it opened
        return {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
