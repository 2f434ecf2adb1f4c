"""`hf:OWNER/NAME`: image-classification sets of the Hugging Face hub, as class folders. No torch.

A set is downloaded once, at the newest revision of that day, and its files are written unchanged into class folders
below HF_HOME. From then on it is a dataset like any other. The revision is part of the split's rule, and so of every
result. An older revision cannot be chosen. Images without a class are left out.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddbench.datasets.hub_images import HubName, write_images
from ddbench.datasets.name import HUB
from ddbench.datasets.source import ClassFolders, folder_source, split_words
from ddbench.errors import UserError
from ddbench.utils.files import make_once, read_json, write_json

log = logging.getLogger("ddbench")

CARD, SIDES = "hub.json", "sides.csv"  # files beside the images
TEST = ("test", "validation", "valid", "val")  # names of splits to test on: the first that the set has


def hub_source(text: str) -> ClassFolders:
    """Return the source of `hf:OWNER/NAME`, downloaded now if it never was. text: see `HubName`.

    A training split and a test split (else validation) of the set are the two sides; without both, 80 % train. Raises
    UserError without the library `datasets`, for a name of another form, and if the hub cannot be reached.
    """
    name = HubName.parse(text)
    folder = name.folder
    make_once(folder, lambda partial: _export(name, partial))
    card, images = _read_card(folder), folder / "images"
    if len(set(card["classes"])) < len(card["classes"]):
        raise UserError(f"{folder} was written by an older ddbench, which put two classes into one folder: delete it")
    return ClassFolders(
        name=f"{HUB}{text}",
        title=f"{name} of the Hugging Face hub",
        classes=tuple(card["classes"]),
        readable=tuple(split_words(label) for label in card["names"]),
        counts=None,
        pixels=folder_source(images).pixels,
        resolution="unknown",
        licence=card["licence"],
        homepage=f"https://huggingface.co/datasets/{name.repo}",
        citation="see its card",
        folders=(str(images),),
        split=str(folder / SIDES) if card["sides"] else "",
        revision=card["revision"],
    )


def _read_card(folder: Path) -> dict[str, Any]:
    """Return the facts of a set that was written before. Raises UserError if they were changed."""
    try:
        card = read_json(folder / CARD)
        texts = [*card["classes"], *card["names"], card["revision"], card["licence"]]
        if len(card["classes"]) != len(card["names"]) or not all(isinstance(text, str) for text in texts):
            raise ValueError("not the names of classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CARD} cannot be used ({error}): delete {folder}, then repeat the command") from None
    return {"sides": False, **card}


def _export(name: HubName, folder: Path) -> None:
    """Write the set's images, card and sides to `folder`. Raises UserError for images that cannot be read."""
    revision, licence = _revision(name.repo)
    data = _load(name, revision)
    import datasets
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    roots = [Path(root).resolve() for root in (name.repo, HF_HOME, HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)]
    written = write_images(name, data, folder / "images", roots)
    sides = _write_sides(folder / SIDES, written.files)
    card = {
        "classes": written.folders,
        "names": written.classes,
        "revision": revision,
        "licence": licence,
        "sides": sides,
    }
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


def _load(name: HubName, revision: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"hf:{name} needs the library `datasets`: pip install 'ddbench[hf]'") from None
    try:
        return datasets.load_dataset(name.repo, name.config or None, revision=revision)
    except Exception as error:  # the hub, the network and the set raise errors of several libraries
        reasons: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(reasons) < 5:  # the first often says only that there is an error
            reasons.append(str(cause).strip() or type(cause).__name__)
            cause = cause.__cause__
        way_out = f"\nChoose one: hf:{name.repo}:CONFIG" if "Config name is missing" in reasons[0] else ""
        text = "\n".join(reason.partition("\nExample of usage")[0] for reason in dict.fromkeys(reasons))
        raise UserError(f"hf:{name} at revision {revision[:8]} cannot be loaded: {text}{way_out}") from error
