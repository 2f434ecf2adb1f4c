"""Measure the cost of 8-bit storage: train students on pixels as optimised, as clipped, and as stored.

    python experiments/methods/eight_bit.py --method dm --preset tiny --set bounded=false --data-root DATA
    python experiments/methods/eight_bit.py                        # print the measurements

Distils one set for EuroSAT at 64 px. Trains ConvNets by quick@1 on each of its three forms with the same student seeds,
and tests them on the real test images. With `bounded` pixels there is nothing to clip. Adds the measurement to
eight_bit.jsonl beside this file.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import click
import torch
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

from ddbench import config
from ddbench.context import Context
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.methods.shared.checkpoint import PIXELS
from ddbench.registry import load_method
from ddbench.types import Dataset
from evaluators.accuracy import evaluate
from evaluators.normalisation import normalisation_of
from evaluators.protocols import protocol
from evaluators.train import train_student

FOUND = Path(__file__).with_suffix(".jsonl")
FORMS = ("as optimised", "clipped", "as stored")


def distilled(method: object, data: Dataset, ipc: int, shared: Path) -> tuple[Mapping[str, Tensor], float]:
    """Images 0..255 (n, 3, h, w) of FORMS, float but the last; the share of values that clipping moves."""
    with tempfile.TemporaryDirectory() as work:
        train_id = f"experiments {data.fingerprint}"
        ctx = Context(0, torch.device("cpu"), Path(work), shared, train_id, method=f"{method.name}@{method.version}")
        made = method.distill(data.train, ipc, ctx)
        state = load_file(Path(work) / PIXELS)
    pixels = (normalisation_of(data.train.images, method.normalise).restore(state["pixels"]) * 255).flatten(0, 1)
    return dict(zip(FORMS, (pixels, pixels.clamp(0, 255), made.images), strict=True)), made.extras["clipped"]


def reached(images: Tensor, data: Dataset, seed: int) -> float:
    """Overall accuracy of a student of `images`, uint8, or float 0..255."""
    classes = len(data.train.classes)
    labels = torch.arange(classes).repeat_interleave(len(images) // classes)
    shown = {"num_classes": classes, "device": "cpu"}
    images = images / 255 if images.is_floating_point() else images
    row = replace(protocol("quick@1"), float_images=True)
    model = train_student(images, labels, student="convnet", protocol=row, seed=seed, **shown)
    return evaluate(model, data.test.images, data.test.labels, **shown).overall


def table(lines: Iterable[Mapping]) -> str:
    rows = []
    for line in lines:
        cells = [
            f"{100 * statistics.fmean(found):.2f} ± {100 * statistics.stdev(found):.2f}" for found in line["overall"]
        ]
        rows.append([line["method"], line["ipc"], f"{100 * line['clipped']:.2f}", *cells])
    return tabulate(rows, ["method", "IPC", "% clipped", *FORMS], disable_numparse=True)


@click.command(help=__doc__)
@click.option("--method", "name", help="dm or mtt, or dc, dsa")
@click.option("--preset")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@click.option("--ipc", default=10, show_default=True)
@click.option("--students", default=3, show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(  # noqa: PLR0913
    name: str | None, preset: str | None, sets: tuple[str, ...], ipc: int, students: int, data_root: Path, shared: Path
) -> None:
    if name:
        data = find_dataset("eurosat").load(DataPaths(data_root, shared), 64)
        forms, clipped = distilled(config.build(load_method(name), preset, None, sets), data, ipc, shared)
        overall = [[reached(forms[form], data, seed) for seed in range(students)] for form in FORMS]
        words = " ".join([name, *([preset] if preset else []), *sets])
        line = {"method": words, "ipc": ipc, "clipped": clipped, "overall": overall}
        with FOUND.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    lines = FOUND.read_text(encoding="utf-8").splitlines() if FOUND.exists() else []
    click.echo(table(map(json.loads, lines)))


if __name__ == "__main__":
    main()
