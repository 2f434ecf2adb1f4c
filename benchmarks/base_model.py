"""Base models by their own bars: what they draw unaided, how well they reconstruct, what students learn from it.

    python benchmarks/referee.py train --data-root DATA --work DIR                  first, once
    python benchmarks/base_model.py --base FOLDER [--base FOLDER] --data-root DATA --work DIR [--sheet FILE.png]
    python benchmarks/base_model.py --base FOLDER --students ...                    an hour more on two cores
    python benchmarks/base_model.py --base FOLDER --quick --split holdout ...       while choosing

Each base (a pipeline folder) draws 100 plain samples of every class of EuroSAT by its caption, from pure noise and
without a prototype: image i of a class is drawn from seed i, and all are measured. Beside its figures stand those of
the real images. Columns are numbered in the order of --base; the first is what KID is compared with.

in class    share of samples that the referee, a ResNet-18 trained on real images, puts in their class
KID         between all samples and all real test images, in the referee's features (evaluators.fidelity.kid)
nearest     mean distance of a sample to the nearest other of its class over that among as many real images, in the
            referee's features (the bar) and in pixels; distances are means over the classes
points lost accuracy of the referee on real test images less that on the same through the autoencoder
students    `ddbench run --method diffusion --preset tiny`, IPC 10, quick@1, three seeds: mean and sample deviation

Nothing may be chosen by the test split. With --split holdout, "real" images are every tenth training image (of UC
Merced, for students, every third), the referee is another one that did not see them, and students are tested on them;
the base itself may have been trained on them. Prints a table, then one JSON line. Measured on a CPU, in float32.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from base_figures import CPU, SAMPLING, STUDENTS, Figures, Options, Seen, draw, in_class, measure, see, student_figures
from referee import SPLITS, eurosat, real_images, referee, with_options
from tabulate import tabulate

from ddbench import config
from ddbench.base_model.data import DRAWN
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.scenes import painter
from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.utils.contact_sheet import draw_sheet
from ddbench.utils.provenance import device_name

PRESET = config.build(Diffusion, "tiny")
SHOWN = 8  # samples of a class on a contact sheet


@dataclass(frozen=True)
class Bar:
    """One row of the table.

    key: of the figure. text: what stands in the table. least, most: the bar, if there is one. digits: after the point.
    """

    key: str
    text: str
    least: float | None = None
    most: float | None = None
    digits: int = 1

    @property
    def words(self) -> str:
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    def cell(self, figures: Figures, compared: bool = True) -> str:
        """The figure and, if it is `compared` with the bar, whether that is met."""
        value = figures.get(self.key)
        if value is None:
            return ""
        number = f"{value:.{self.digits}f}"
        if f"{self.key}_std" in figures:
            number += f" ± {figures[f'{self.key}_std']:.{self.digits}f}"
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        return f"{number} {'met' if met else 'missed'}" if self.words and compared else number


BARS = (
    Bar("referee", "referee on real images, %", least=92),
    Bar("in_class", "in class, %", least=90),
    *(Bar(f"in_class_{name}", f"in class: {name}, %", least=75) for name in EUROSAT.classes),
    Bar("kid", "KID", digits=4),
    Bar("kid_ratio", "KID over that of [1]", most=0.5, digits=3),
    Bar("nearest_features", "nearest, features", digits=3),
    Bar("nearest_features_ratio", "nearest, features, over real", least=0.8, digits=3),
    Bar("nearest_pixels", "nearest, pixels", digits=3),
    Bar("nearest_pixels_ratio", "nearest, pixels, over real", digits=3),
    Bar("psnr", "reconstruction, dB PSNR"),
    Bar("reconstruction_loss", "reconstruction, points lost", most=4),
    Bar("seconds", "seconds per 100 images", most=20),
    Bar("cpu_seconds", "CPU seconds per 100 images"),
    Bar("megabytes", "files, MB", most=40),
    Bar("student_eurosat", f"students: EuroSAT, {STUDENTS['eurosat']}, %", least=60.9),  # of random real images
    Bar("student_ucm", f"students: UC Merced, {STUDENTS['ucm']}, %", least=40),
)


def save_sheet(model: LatentModel, samples: Seen, path: Path, options: Options) -> None:
    """The first samples of every class of EuroSAT, then of the procedural scenes that the base also learned."""
    first = [samples.images[samples.labels == label][:SHOWN] for label in range(len(EUROSAT.classes))]
    for label, name in enumerate(painter.READABLE, len(first)):
        first.append(draw(model, DRAWN.format(name), label, SHOWN, options))
    labels = torch.arange(len(first)).repeat_interleave(torch.tensor([len(images) for images in first]))
    images = torch.cat(first).permute(0, 2, 3, 1).numpy()
    names = (*EUROSAT.classes, *(f"drawn {name}" for name in painter.READABLE))
    draw_sheet(images, labels.numpy(), names).save(path, optimize=True)


def real_column(real: Seen, columns: list[Figures]) -> Figures:
    """The figures of the real images, as far as they have a meaning there."""
    nearest = {f"nearest_{space}": columns[0][f"nearest_{space}_real"] for space in ("features", "pixels")}
    return nearest | {"referee": 100 * real.scores.overall} | in_class(real)


def table(columns: list[Figures], real: Figures) -> str:
    bars = [bar for bar in BARS if any(bar.key in figures for figures in (*columns, real))]
    rows = [[bar.text, bar.words, *map(bar.cell, columns), bar.cell(real, bar.key == "referee")] for bar in bars]
    heads = ["", "bar", *(f"[{number}]" for number in range(1, len(columns) + 1)), "real images"]
    return tabulate(rows, heads, disable_numparse=True)


@click.command(help=__doc__)
@with_options
@click.option("--base", "bases", multiple=True, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="holdout: for choices")
@click.option("--count", type=click.IntRange(min=2), help="Samples of a class.  [default: 100]")
@click.option("--steps", default=PRESET.steps, show_default=True)
@click.option("--spacing", default=PRESET.spacing, show_default=True, help="of their times")
@click.option("--guidance", default=PRESET.guidance, show_default=True)
@click.option("--guidance-low", default=PRESET.guidance_low, show_default=True, help="share of the noise schedule")
@click.option("--guidance-high", default=PRESET.guidance_high, show_default=True)
@click.option("--scheduler", default=PRESET.scheduler, show_default=True, help="base, or a class of diffusers")
@click.option("--quick", is_flag=True, help="20 samples of a class, every fifth reconstruction")
@click.option("--students", is_flag=True, help="train students, slow")
@click.option("--sheet", "sheet_file", type=click.Path(path_type=Path), help="PNG of the first samples of each class")
def main(bases: tuple[Path, ...], quick: bool, students: bool, sheet_file: Path | None, **words: Any) -> None:
    words["count"] = words["count"] or (20 if quick else 100)
    options = Options(**words, stride=5 if quick else 1)
    net = referee(options.work, options.split)
    images = real_images(eurosat(options.data_root, options.shared), options.split)
    if options.count > min(images.counts()):
        raise click.ClickException(f"--count {options.count}: one class has {min(images.counts())} real images only")
    real, columns = see(net, images.images, images.labels), []
    for number, base in enumerate(bases, 1):
        try:
            model, samples, figures = measure(base, net, real, options)
        except UserError as error:
            raise click.ClickException(str(error)) from None
        if sheet_file:
            name = sheet_file.stem if len(bases) == 1 else f"{sheet_file.stem}-{number}"
            save_sheet(model, samples, sheet_file.with_stem(name), options)
        if students:
            figures |= student_figures(base, model.identity, options)
        columns.append(figures)
    for figures in columns[1:]:
        figures["kid_ratio"] = figures["kid"] / columns[0]["kid"]
    column = real_column(real, columns)
    print("\n".join(f"[{number}] {base}" for number, base in enumerate(bases, 1)))
    print(table(columns, column))
    how = {name: getattr(options, name) for name in ("split", "count", *SAMPLING)}
    how |= {"device": device_name(CPU), "load": os.getloadavg()[0]}
    results = [{"base": base.name} | figures for base, figures in zip(bases, columns, strict=True)]
    print(json.dumps({"benchmark": "base_model"} | how | {"bases": results, "real": column}))


if __name__ == "__main__":
    main()
