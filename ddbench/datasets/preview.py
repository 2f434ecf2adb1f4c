"""Draw a dataset: a contact sheet, and a page of its balance, mean images and sizes. Imports torch and matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import Source
from ddbench.types import Dataset
from ddbench.utils import contact_sheet
from ddbench.utils.files import write_bytes
from ddbench.utils.images import to_array

SIZE = 64  # px of the images
SIZES = 12  # bars in the chart of file sizes


def write_pages(source: Source, data_paths: DataPaths) -> tuple[Path, Path]:
    """Write contact.png (training images of every class) and summary.png below data_paths.shared; return their paths.

    Packs the dataset at 64 px if it is not packed. Raises DatasetError if it is incomplete.
    """
    data = source.load(data_paths, SIZE)
    folder = data_paths.shared / f"shown-{source.slug}"
    sheet, page = folder / "contact.png", folder / "summary.png"
    train = data.train
    rows = torch.cat([train.of_class(label)[: contact_sheet.ACROSS] for label in range(len(train.classes))])
    images, labels = to_array(train.images[rows]), train.labels[rows].numpy()
    write_bytes(sheet, contact_sheet.render_png(images, labels, train.classes))
    figure = draw_summary(data, source.title, source.sizes(data_paths))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    plt.close(figure)
    write_bytes(page, out.getvalue())
    return sheet, page


def draw_summary(data: Dataset, title: str, sizes: Mapping[tuple[int, int], int]) -> Figure:
    """Draw the balance of the classes, the mean training image of each class, and the sizes of the files."""
    train, classes = data.train, [_as_label(name) for name in data.train.classes]
    figure = plt.figure(figsize=(10, 3 + 0.28 * len(classes)), layout="constrained")
    sides = f"{len(train.labels)} training, {len(data.test.labels)} test images; {data.split}"
    figure.suptitle(_as_label(f"{title}: {sides}"))
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))

    axes, bars = left.subplots(), np.arange(len(classes))
    axes.barh(bars, train.counts(), label="training", color="#0072b2")
    axes.barh(bars, data.test.counts(), left=train.counts(), label="test", color="#e69f00")
    axes.set_yticks(bars, classes)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.legend()

    above, below = right.subfigures(2, 1, height_ratios=(3, 2))
    above.suptitle("mean training image of each class", fontsize="medium")
    across = int(np.ceil(np.sqrt(len(classes))))
    grid = above.subplots(int(np.ceil(len(classes) / across)), across, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for label, (axes, name) in enumerate(zip(grid.ravel(), classes, strict=False)):
        mean = train.images[train.of_class(label)].float().mean(0)
        axes.imshow(mean.permute(1, 2, 0).round().byte().numpy())
        axes.set_title(name, fontsize=5)

    axes, largest = below.subplots(), list(sizes.items())[:SIZES]
    bars = axes.barh([f"{width} x {height}" for (width, height), _ in largest], [count for _, count in largest])
    axes.bar_label(bars)
    axes.invert_yaxis()
    axes.set_xlabel("files of a size" + (f" ({len(sizes) - SIZES} sizes more)" if len(sizes) > SIZES else ""))
    return figure


def _as_label(text: str) -> str:
    """Return a text as matplotlib draws it: no formula, and no character that its font lacks."""
    (_, dejavu, *_) = contact_sheet.load_fonts()
    return contact_sheet.replace_lacking(text, dejavu).replace("$", r"\$")
