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
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import Source
from ddbench.types import Dataset, ImageSet
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
    figure = _summary(data, source.title, source.sizes(data_paths))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    plt.close(figure)
    write_bytes(page, out.getvalue())
    return sheet, page


def _summary(data: Dataset, title: str, sizes: Mapping[tuple[int, int], int]) -> Figure:
    classes = data.train.classes
    figure = plt.figure(figsize=(10, 3 + 0.28 * len(classes)), layout="constrained")
    balance, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    figure.suptitle(f"{title}: {len(data.train.labels)} training, {len(data.test.labels)} test images; {data.split}")
    _draw_balance(balance.subplots(), data)
    means, bars = right.subfigures(2, 1, height_ratios=(3, 2))
    _draw_means(means, data.train)
    _draw_sizes(bars.subplots(), sizes)
    return figure


def _draw_balance(axes: Axes, data: Dataset) -> None:
    train, test = data.train.counts(), data.test.counts()
    bars = np.arange(len(train))
    axes.barh(bars, train, label="training", color="#0072b2")
    axes.barh(bars, test, left=train, label="test", color="#e69f00")
    axes.set_yticks(bars, data.train.classes)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.legend()


def _draw_means(figure: Figure, train: ImageSet) -> None:
    """Draw the mean image of every class on a grid."""
    across = int(np.ceil(np.sqrt(len(train.classes))))
    grid = figure.subplots(int(np.ceil(len(train.classes) / across)), across, squeeze=False)
    figure.suptitle("mean training image of each class", fontsize="medium")
    for axes in grid.ravel():
        axes.axis("off")
    for label, (axes, name) in enumerate(zip(grid.ravel(), train.classes, strict=False)):
        mean = train.images[train.of_class(label)].float().mean(0)
        axes.imshow(mean.permute(1, 2, 0).round().byte().numpy())
        axes.set_title(name, fontsize=5)


def _draw_sizes(axes: Axes, sizes: Mapping[tuple[int, int], int]) -> None:
    largest = list(sizes.items())[:SIZES]
    bars = axes.barh([f"{width} x {height}" for (width, height), _ in largest], [count for _, count in largest])
    axes.bar_label(bars)
    axes.invert_yaxis()
    axes.set_xlabel("files of a size" + (f" ({len(sizes) - SIZES} sizes more)" if len(sizes) > SIZES else ""))
