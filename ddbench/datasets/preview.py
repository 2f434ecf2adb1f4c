"""Pictures of a dataset: a contact sheet, and a page of its balance, mean images and sizes. torch, matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window is ever opened

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddbench.datasets.info import DataPaths
from ddbench.types import Dataset, ImageSet
from ddbench.utils import contact_sheet
from ddbench.utils.files import write_bytes

SIZE = 64  # px of the pack that is shown
SHOWN = 12  # sizes of files that get a bar


def write_pages(source: Any, data_paths: DataPaths) -> tuple[Path, Path]:
    """contact.png (training images of every class) and summary.png, below data_paths.shared; their paths.

    The dataset is packed at 64 px, unless it is. Raises DatasetError where it is not whole.
    """
    data = source.load(data_paths, SIZE)
    folder = data_paths.shared / f"shown-{source.slug}"
    sheet, page = folder / "contact.png", folder / "summary.png"
    write_bytes(sheet, contact_sheet.render_png(*_first(data.train), data.train.classes))
    write_bytes(page, _png(_summary(data, source.title, source.sizes(data_paths))))
    return sheet, page


def _first(train: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, h, w, 3) and labels of as many of every class as a sheet shows."""
    labels = range(len(train.classes))
    rows = np.concatenate([train.of_class(label)[: contact_sheet.ACROSS].numpy() for label in labels])
    images = train.images[rows].permute(0, 2, 3, 1).numpy()
    return images, train.labels[rows].numpy()


def _summary(data: Dataset, title: str, sizes: Mapping[tuple[int, int], int]) -> Figure:
    classes = data.train.classes
    figure = plt.figure(figsize=(10, 3 + 0.28 * len(classes)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    figure.suptitle(f"{title}: {len(data.train.labels)} training, {len(data.test.labels)} test images; {data.split}")
    _balance(left.subplots(), data)
    top, bottom = right.subfigures(2, 1, height_ratios=(3, 2))
    _means(top, data.train)
    _sizes(bottom.subplots(), sizes)
    return figure


def _balance(axes: Axes, data: Dataset) -> None:
    train, test = data.train.counts(), data.test.counts()
    places = np.arange(len(train))
    axes.barh(places, train, label="training", color="#0072b2")
    axes.barh(places, test, left=train, label="test", color="#e69f00")
    axes.set_yticks(places, data.train.classes)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.legend()


def _means(figure: Figure, train: ImageSet) -> None:
    """The mean image of every class, on a grid."""
    across = int(np.ceil(np.sqrt(len(train.classes))))
    grid = figure.subplots(int(np.ceil(len(train.classes) / across)), across, squeeze=False)
    figure.suptitle("mean training image of each class", fontsize="medium")
    for axes in grid.ravel():
        axes.axis("off")
    for label, (axes, name) in enumerate(zip(grid.ravel(), train.classes, strict=False)):
        mean = train.images[train.of_class(label)].float().mean(0)
        axes.imshow(mean.permute(1, 2, 0).round().byte().numpy())
        axes.set_title(name, fontsize=5)


def _sizes(axes: Axes, sizes: Mapping[tuple[int, int], int]) -> None:
    shown = list(sizes.items())[:SHOWN]
    bars = axes.barh([f"{width} x {height}" for (width, height), _ in shown], [count for _, count in shown])
    axes.bar_label(bars)
    axes.invert_yaxis()
    axes.set_xlabel("files of a size" + (f" ({len(sizes) - SHOWN} sizes more)" if len(sizes) > SHOWN else ""))


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    plt.close(figure)
    return out.getvalue()
