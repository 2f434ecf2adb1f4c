"""Measure herding by an embedding of fewer training steps, on held-back images of EuroSAT's training split.

    python experiments/embedding/steps.py 1000 300 --data-root DATA [--shared shared]

Holds back 200 images of each class. For each number of steps and each of three seeds: trains the embedding on the
others, chooses ten images per class by herding, trains a convnet by quick@1 on them and tests it on the images held
back. Appends one JSON line each to steps.jsonl; what stands there is not measured again. No test image is read.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from tqdm import tqdm

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.methods.herding import greedy_order
from ddbench.methods.shared.selection import RECIPE
from evaluators.accuracy import evaluate
from evaluators.recipes import Protocol
from evaluators.students import features
from evaluators.train import train_student

RESULTS = Path(__file__).with_name("steps.jsonl")
HELD_BACK, IPC, SEEDS = 200, 10, 3


@click.command(help=__doc__)
@click.argument("steps", type=int, nargs=-1, required=True)
@click.option("--data-root", type=click.Path(path_type=Path, exists=True), envvar="DDBENCH_DATA", required=True)
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(steps: tuple[int, ...], data_root: Path, shared: Path) -> None:
    train = find_dataset("eurosat").load(DataPaths(data_root, shared), 64).train
    generator = torch.Generator().manual_seed(0)
    rows = [train.of_class(label) for label in range(len(train.classes))]
    rows = [r[torch.randperm(len(r), generator=generator)] for r in rows]
    held_back = torch.cat([r[:HELD_BACK] for r in rows])
    rest = torch.cat([r[HELD_BACK:] for r in rows])
    images, labels = train.images[rest], train.labels[rest]
    common = {"num_classes": len(train.classes), "device": "cpu"}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    measured = {(line["steps"], line["seed"]) for line in lines}
    for seed, count in ((s, c) for s in range(SEEDS) for c in steps if (c, s) not in measured):
        recipe = replace(RECIPE, min_steps=count, max_steps=count)
        row = Protocol("embedding", 1, {"convnet": recipe}, source="experiments/embedding")
        begun = time.process_time()
        network = train_student(
            images, labels, student="convnet", protocol=row, seed=seed, progress=progress_bar, **common
        )
        phi = features(network, images)
        seconds = time.process_time() - begun
        classes = [torch.where(labels == label)[0] for label in range(len(train.classes))]
        chosen = torch.cat([r[greedy_order(phi[r], IPC)] for r in classes])
        student = train_student(
            images[chosen], labels[chosen], student="convnet", protocol="quick@1", seed=seed, progress=progress_bar,
            **common,
        )  # fmt: skip
        test = train.images[held_back], train.labels[held_back]
        line = {"steps": count, "seed": seed, "cpu_seconds": round(seconds)}
        line["embedding"] = round(evaluate(network, *test, **common).overall, 4)
        line["herding"] = round(evaluate(student, *test, **common).overall, 4)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def progress_bar(items, desc, total):
    return tqdm(items, desc=desc, total=total, mininterval=30)


if __name__ == "__main__":
    main()
