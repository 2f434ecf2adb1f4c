"""Audit distilled sets, as `ddbench audit` does. No torch until it computes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddbench.api.data import find_source, whole_number
from ddbench.errors import UserError
from ddbench.runner import EMBEDDINGS
from ddbench.runner.options import SMALLEST, GlobalOptions
from ddbench.store.audits import Audit, read_audit

if TYPE_CHECKING:
    from ddbench.api.runs import Run
    from ddbench.datasets.memory import Items


def audit(  # noqa: PLR0913
    images: str | os.PathLike[str] | Run,
    *,
    dataset: str | tuple[Items, Items],
    features: str | Sequence[str] = EMBEDDINGS,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    runs: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    shared: str | os.PathLike[str] | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> tuple[Audit, ...]:
    """Measure whether a distilled set gives its training images away: one `Audit` for each embedding.

    docs/audit.md says what is measured and what is not. An existing audit of the set is read, not made again.

    images: what `run` returned, the folder of a run, or a folder with one sub-folder of images per class.
    features: embeddings in which images are compared: "pixels", "STUDENT/PROTOCOL" (trained on the training images) or
        "STUDENT/imagenet".
    size: side of the images of a folder, px; None for the dataset's own.
    dataset, classes, dataset_name, runs, data_root, shared, device, resize, quiet: see `run`.

    Raises UserError for an invalid argument, missing weights, and a run of another dataset or without images.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=2)
    >>> (result,) = ddbench.audit(run, dataset="folder:images", features="pixels")
    >>> result.use.auc  # the set is made of training images, so each is found
    1.0
    """
    from ddbench.runner.audit import audit as audit_run
    from ddbench.runner.embedding import embedding_title
    from ddbench.runner.measured_run import measure_runs

    options = GlobalOptions.of_call(quiet, resize, runs=runs, data=data_root, shared=shared, device=device)
    folder = Path(images).expanduser() if isinstance(images, str | os.PathLike) else images.folder
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a run, or one sub-folder of images per class")
    names = (features,) if isinstance(features, str) else tuple(features)
    measures = {title: partial(audit_run, source=title) for title in dict.fromkeys(map(embedding_title, names))}
    source = find_source(dataset, classes, dataset_name, options.quiet)
    measurements = measure_runs(options, [folder], source, whole_number("size", size, SMALLEST), measures)
    if measurements.skipped:
        raise UserError(f"{folder} cannot be audited; the reason is logged")
    if measurements.unavailable:
        raise next(iter(measurements.unavailable.values()))
    return tuple(map(read_audit, measurements.paths))
