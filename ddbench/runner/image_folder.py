"""Export a run's distilled set as an image folder for the library `datasets` and the Hugging Face hub. No torch.

README.md                    the dataset card
manifest.json                that of the set, with `folders` (of the classes) and `run` (the spec)
train/<class>/000.png        the images
train/metadata.jsonl         only if the names of the folders cannot stand for the labels (`named_by_number`)
soft_labels.safetensors ...  what else the set has, as in `ddbench.store.distilled_set`
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError
from ddbench.runner.dataset_card import CardContent, write_card
from ddbench.store.class_folders import class_files
from ddbench.store.paths import is_inside_run
from ddbench.store.reader import RunsScan, read_distilled_run, read_run, report_problems
from ddbench.store.records import Result
from ddbench.utils.files import make_once, read_json, write_json

SPLIT = "train"
# `datasets` takes a folder with such a part of its name, between separators, for a split
SPLIT_NAMES = frozenset((
    "train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation",
))  # fmt: skip
SEPARATORS = r"[-._ 0-9]+"
# no file name on Windows, a pattern or an address for `datasets`
UNFIT = re.compile(r'[<>:"/\\|?*\[\]{}#%&~`$!\x00-\x1f\x7f]|^__|^[. ]|[. ]$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def export_images(run: Path, folder: Path, data_paths: DataPaths) -> list[Result]:
    """Write the distilled set of a run as an image folder; return the accuracies that the card states.

    data_paths: of the real images, for the normalisation on the card; it is left out where they are not there.

    Raises UserError for a run that is none or has no set, for one that was changed, and if `folder` exists.
    """
    spec, pictures = read_distilled_run(run)
    scan = RunsScan()
    read_run(run, True, scan)
    report_problems(scan.problems)
    results = [stored.result for stored in scan.results]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten: remove it, or name another folder")
    if is_inside_run(folder):
        raise UserError(f"{folder} is in the folder of a run, which holds its own files only: name another")
    if folder.is_dir():
        folder.rmdir()

    def fill(partial: Path) -> None:
        manifest = read_json(run / "distilled" / "manifest.json")
        files = class_files(run / "distilled")
        classes = pictures.classes
        by_number = named_by_number(classes)
        places = [f"{SPLIT}/class_{i:03d}" if by_number else f"{SPLIT}/{name}" for i, name in enumerate(classes)]
        lines = []
        for name, place in zip(classes, places, strict=True):
            (partial / place).mkdir(parents=True)
            for file in files.get(name, []):
                shutil.copyfile(file, partial / place / file.name)
                lines.append({"file_name": f"{place.removeprefix(f'{SPLIT}/')}/{file.name}", "label": name})
        if by_number:
            text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
            (partial / SPLIT / "metadata.jsonl").write_text(text, encoding="utf-8")
        for file in (run / "distilled").glob("*.safetensors"):
            shutil.copyfile(file, partial / file.name)
        write_json(partial / "manifest.json", manifest | {"folders": places, "run": {"schema": 1, **asdict(spec)}})
        write_card(partial / "README.md", CardContent(folder.name, spec, pictures, places, results), data_paths)

    if not make_once(folder, fill):
        raise UserError(f"{folder} was written by another process: name another folder")
    folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
    return results


def named_by_number(classes: Sequence[str]) -> bool:
    """Return True if folders cannot be named as the classes, so that a metadata file has to name the labels.

    That is so for a single class (`datasets` gives no labels then), for names that it takes for splits, hides or reads
    as patterns, that other file systems refuse, and for names that differ in case alone.
    """
    if len(classes) < 2 or len({name.casefold() for name in classes}) < len(classes):
        return True
    return any(
        UNFIT.search(name) or RESERVED.fullmatch(name) or SPLIT_NAMES & set(re.split(SEPARATORS, name.casefold()))
        for name in classes
    )
