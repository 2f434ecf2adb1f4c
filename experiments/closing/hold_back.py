"""Make the folders held/NAME/train and held/NAME/test of a dataset's training images; every fourth is held back.

    python experiments/closing/hold_back.py --data-root DATA --dataset ucm
    python experiments/closing/hold_back.py --data-root DATA --dataset eurosat --per-class 400

A choice that is made on held/NAME/test uses no test image. Files are linked, not copied, where the disk allows it.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import click

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True)
@click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared"))
@click.option("--dataset", default="ucm", show_default=True)
@click.option("--per-class", type=int, help="First images of each class, for both folders together; default: all.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("held"), show_default=True)
def main(data_root: Path, shared: Path, dataset: str, per_class: int | None, to: Path) -> None:
    """Link the files, and print their number."""
    train = find_dataset(dataset).load(DataPaths(data_root, shared), 64).train
    files = {path.name: path for path in data_root.rglob("*") if path.is_file()}
    seen: Counter[str] = Counter()
    for name, label in zip(train.names, train.labels.tolist(), strict=True):
        label_name = train.classes[label]
        if seen[label_name] == per_class:
            continue
        seen[label_name] += 1
        folder = to / dataset / ("train" if seen[label_name] % 4 else "test") / label_name
        folder.mkdir(parents=True, exist_ok=True)
        source, target = files[Path(name).name], folder / Path(name).name
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk
            shutil.copyfile(source, target)
    print(f"{sum(seen.values())} images of {len(seen)} classes below {to / dataset}")


if __name__ == "__main__":
    main()
