"""Images and classes in the rows of a set of the Hugging Face hub, as files in class folders. No torch."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ddbench.datasets.name import HUB
from ddbench.errors import UserError
from ddbench.utils.files import IMAGES, digest
from ddbench.utils.progress import progress_bar

log = logging.getLogger("ddbench")

FORM = "hf:OWNER/NAME, hf:OWNER/NAME:CONFIG or hf:OWNER/NAME?label=COLUMN&image=COLUMN"
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}  # drones write MPO into .jpg
LONGEST = 255  # bytes of a file name
NAMED = 5  # images that a message names


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


@dataclass(frozen=True)
class WrittenImages:
    """The images of a set that were written into class folders.

    files: paths "class/file" of each of the set's splits.
    classes, folders: names in the set and names of the folders, of the classes that have an image.
    stored: name of the image's file as its row has it, by path; empty if it has none.
    """

    files: dict[str, list[str]]
    classes: list[str]
    folders: list[str]
    stored: dict[str, str]


def write_images(name: HubName, data: Mapping[str, Any], folder: Path, roots: Sequence[Path]) -> WrittenImages:
    """Write the images of a set as they are into class folders: "class/split-000012.jpg".

    data: rows of each split, of the library `datasets`. roots: folders of the files that a row may name in place of
    bytes. Raises UserError, naming splits and rows, for images that cannot be read.
    """
    import datasets

    picture, label = _columns(name, next(iter(data.values())).features)
    names = next(iter(data.values())).features[label].names
    folders = class_folder_names(names)
    files: dict[str, list[str]] = {part: [] for part in data}
    stored: dict[str, str] = {}
    used: set[int] = set()
    broken = []
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
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(image)
            used.add(row[label])
            files[part].append(path.as_posix())
            stored[path.as_posix()] = str(row[picture].get("path") or "").replace("\\", "/").rpartition("/")[2]
        if unlabelled:
            log.warning("hf:%s: %d images of the split %s have no class and are omitted", name, unlabelled, part)
    if broken:
        more = [f"  and {len(broken) - NAMED} more"] if len(broken) > NAMED else []
        lines = [f"hf:{name}: {len(broken)} images cannot be read:", *(f"  {line}" for line in broken[:NAMED]), *more]
        raise UserError("\n".join([*lines, "Nothing was kept. Ask the set's owner to repair it, or use a copy."]))
    if unused := [one for index, one in enumerate(names) if index not in used]:
        log.warning("hf:%s: %d classes have no image and are omitted: %s", name, len(unused), ", ".join(unused[:NAMED]))
    labels = sorted(used)
    return WrittenImages(files, [names[i] for i in labels], [folders[i] for i in labels], stored)


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
            raise UserError(
                f"hf:{name} needs a column of the kind Image and one of the kind ClassLabel (numbers and the classes' "
                f"names); it has {columns}.\nOtherwise write its images into one folder per class: folder:PATH"
            )
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
