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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ddbench.datasets.name import HUB
from ddbench.datasets.source import ClassFolders, folder_source, split_words
from ddbench.errors import UserError
from ddbench.utils.files import IMAGES, digest, make_once, read_json, write_json
from ddbench.utils.progress import progress_bar

log = logging.getLogger("ddbench")

CARD, SIDES = "hub.json", "sides.csv"  # files beside the images
FORM = "hf:OWNER/NAME, hf:OWNER/NAME:CONFIG or hf:OWNER/NAME?label=COLUMN&image=COLUMN"
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}  # drones write MPO into .jpg
LONGEST = 255  # bytes of a file name
NAMED = 5  # images that a message names
TEST = ("test", "validation", "valid", "val")  # names of splits to test on: the first that the set has


@dataclass(frozen=True)
class HubName:
    """The name behind "hf:": OWNER/NAME, then ":CONFIG" and "?label=COLUMN&image=COLUMN" where they are needed.

    repo: OWNER/NAME.
    config: of a set with several configurations, else empty.
    label, image: columns, where the set has several; else empty.
    """

    repo: str
    config: str = ""
    label: str = ""
    image: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Take the text apart. Raises UserError for another form, and for names that leave their folder."""
        name, _, query = text.partition("?")
        match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?::(\w[\w.+ -]*))?", name)
        columns = {key: value for key, _, value in (pair.partition("=") for pair in query.split("&") if pair)}
        if not match or not columns.keys() <= {"label", "image"} or not all(columns.values()):
            raise UserError(f"{HUB}{text}: write {FORM}, as in hf:torchgeo/ucmerced")
        return cls(match[1], match[2] or "", **columns)

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in (("label", self.label), ("image", self.image)) if value)
        return f"{self.repo}{self.config and ':'}{self.config}{query and '?'}{query}"

    @property
    def folder(self) -> Path:
        """The folder of its images: below HF_HOME, named like the text."""
        from huggingface_hub.constants import HF_HOME

        return Path(HF_HOME) / "ddbench" / re.sub(r"[^\w.-]", "--", str(self))


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

    picture, label = _columns(name, next(iter(data.values())).features)
    names = next(iter(data.values())).features[label].names
    folders = class_folder_names(names)
    written: dict[str, list[str]] = {part: [] for part in data}
    used: set[int] = set()
    broken = []
    roots = [Path(root).resolve() for root in (name.repo, HF_HOME, HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)]
    for part, rows in data.items():
        raw = rows.cast_column(picture, datasets.Image(decode=False))
        unlabelled = 0
        for number, row in enumerate(progress_bar(raw, desc=f"writing {part}")):
            if row[label] is None or row[label] < 0:  # the hub's mark of an image without a class
                unlabelled += 1
                continue
            try:
                image = _image_bytes(row[picture], roots)
                suffix = _suffix(image)
            except (OSError, ValueError, TypeError, SyntaxError) as error:  # Pillow's plugins raise all of these
                broken.append(f"{part}, row {number}: {str(error).splitlines()[0] if str(error) else 'no image'}")
                continue
            path = Path(folders[row[label]]) / f"{part}-{number:06d}{suffix}"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).write_bytes(image)
            used.add(row[label])
            written[part].append(path.as_posix())
        if unlabelled:
            log.warning("hf:%s: %d images of the split %s have no class and are omitted", name, unlabelled, part)
    if broken:
        more = [f"  and {len(broken) - NAMED} more"] if len(broken) > NAMED else []
        lines = [f"hf:{name}: {len(broken)} images cannot be read:", *(f"  {line}" for line in broken[:NAMED]), *more]
        raise UserError("\n".join([*lines, "Nothing was kept. Ask the set's owner to repair it, or use a copy."]))
    if unused := [one for index, one in enumerate(names) if index not in used]:
        log.warning("hf:%s: %d classes have no image and are omitted: %s", name, len(unused), ", ".join(unused[:NAMED]))
    sides = _write_sides(folder / SIDES, written)
    labels = sorted(used)
    card = {
        "classes": [folders[i] for i in labels],
        "names": [names[i] for i in labels],
        "revision": revision,
        "licence": licence,
        "sides": sides,
    }
    write_json(folder / CARD, card)


def class_folder_names(names: Sequence[str]) -> list[str]:
    """Return a folder name for each class name, all different and at most LONGEST bytes long.

    A slash becomes a hyphen; dots and blanks at the ends are left out. A name that is then taken gets a number.
    """
    folders: list[str] = []
    for name in names:
        folder = re.sub(r"[/\\\0]", "-", name).strip(". ") or "unnamed"
        if len(folder.encode()) > LONGEST:
            folder = f"{folder.encode()[: LONGEST - 60].decode(errors='ignore')}-{digest(name)[:8]}"
        number, first = 2, folder
        while folder.casefold() in {other.casefold() for other in folders}:
            folder, number = f"{first}-{number}", number + 1
        if folder != first:
            log.warning("the class %r has the folder %s: another class has %s", name, folder, first)
        folders.append(folder)
    return folders


def _image_bytes(cell: Any, roots: Sequence[Path]) -> bytes:
    """Return the bytes of an image in a row. Raises ValueError for none, and for a file that is not below `roots`."""
    data = (cell or {}).get("bytes")
    if not data and cell and cell.get("path"):
        path = Path(cell["path"]).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            raise ValueError(f"its file {path} is not one of the set's")
        data = path.read_bytes()
    if not data:
        raise ValueError("it is empty")
    return bytes(data)


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
        text = "\n".join(dict.fromkeys(reasons))
        raise UserError(f"hf:{name} at revision {revision[:8]} cannot be loaded: {text}{way_out}") from error


def _columns(name: HubName, features: Any) -> tuple[str, str]:
    """Return the names of the columns with images and with classes; say which if there are several.

    Raises UserError where the set has none, or several of which none is called `image` or `label`.
    """
    import datasets

    columns = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in features.items())
    chosen = []
    for kind, wanted, usual in ((datasets.Image, name.image, "image"), (datasets.ClassLabel, name.label, "label")):
        fitting = [column for column, feature in features.items() if isinstance(feature, kind)]
        if wanted and wanted not in fitting:
            raise UserError(f"hf:{name} has no column {wanted} of {kind.__name__}; it has {columns}")
        if not fitting:
            raise UserError(f"hf:{name} needs a column of images and one of classes; it has {columns}")
        if not wanted and len(fitting) > 1:
            if usual not in fitting:
                raise UserError(
                    f"hf:{name} has several columns for the {usual}: {', '.join(fitting)}. Choose one: "
                    f"hf:{name}{'&' if '?' in str(name) else '?'}{usual}={fitting[-1]}"
                )
            log.warning("hf:%s: the column %s is used, not %s", name, usual, ", ".join(set(fitting) - {usual}))
        chosen.append(wanted or (usual if usual in fitting else fitting[0]))
    return chosen[0], chosen[1]


def _suffix(data: bytes) -> str:
    """Return the suffix of an image file. Raises an error of Pillow, ValueError for a format that is not read."""
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format or ""  # Pillow has it of whatever it opened
    suffix = SUFFIXES.get(kind, f".{kind.lower()}")
    if suffix not in IMAGES:
        raise ValueError(f"images of the format {kind} are not read")
    return suffix
