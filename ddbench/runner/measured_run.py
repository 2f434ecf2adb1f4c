"""Runs that are measured without a student, and features of their images. `quality` and `audit` share it.

Features are those of STUDENT/PROTOCOL, trained on the real training split (a stage, made once), or of STUDENT/imagenet.
A network trained on ImageNet sees images at 256 px; any other network sees them at the size of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddbench.datasets.name import display_name
from ddbench.errors import UserError
from ddbench.runner import teacher
from ddbench.store.records import RunSpec, read_spec, train_id
from ddbench.types import Dataset, ImageSet
from ddbench.utils.distributed import device
from ddbench.utils.files import digest, make_once
from ddbench.utils.progress import progress_bars
from ddbench.utils.tensor_file import write_rows
from evaluators import VERSION, pretrained
from evaluators.augment import resize
from evaluators.catalog import STUDENTS
from evaluators.protocols import protocol
from evaluators.students import Student, build, feature_batches

if TYPE_CHECKING:
    from ddbench.datasets.lookup import ImageSource
    from ddbench.runner.options import GlobalOptions
    from ddbench.runner.plan import ExecutionSettings

log = logging.getLogger("ddbench")
LARGE, MIDDLE = 256, 224  # pixels that networks which know ImageNet are given; the crop of those used as they are


@dataclass(frozen=True)
class MeasuredRun:
    """A run, and the dataset that its distilled set is compared with.

    load: loads the dataset at a size in pixels.
    """

    folder: Path
    spec: RunSpec
    load: Callable[[int], Dataset]
    device: torch.device
    settings: ExecutionSettings

    @property
    def data(self) -> Dataset:
        """The dataset at the size of the run."""
        return self.load(self.spec.size)


@dataclass(frozen=True)
class Measurements:
    """Files of the measures of several runs.

    paths: in the order of the runs.
    unavailable: measures that lack weights, with the reason.
    skipped: number of runs that could not be measured.
    """

    paths: Sequence[Path]
    unavailable: Mapping[str, UserError]
    skipped: int = 0

    def report_missing(self, kind: str) -> bool:
        """Log what was not computed; return True if anything was not. kind: of the measures, in words."""
        for name, reason in self.unavailable.items():
            log.error("%s %s not computed: %s", kind, name, reason)
        return bool(self.unavailable or self.skipped)


def measure_runs(
    options: GlobalOptions,
    folders: Sequence[Path],
    source: ImageSource,
    size: int | None,
    measures: Mapping[str, Callable[[MeasuredRun], Path]],
) -> Measurements:
    """Apply each measure to each run; a folder of images becomes a run first.

    size: side of the images of a folder, px; None for the dataset's own.
    Raises the UserError of a measure if no measure could be computed.
    """
    where, loader = device(options.device), cache(lambda pixels: source.load(options.data_paths, pixels))
    paths: list[Path] = []
    unavailable: dict[str, UserError] = {}
    skipped = 0
    for folder in folders:
        try:
            run = MeasuredRun(*find_run(options, folder, source, size), loader, where, options.settings)
            for name in [name for name in measures if name not in unavailable]:
                try:
                    paths.append(measures[name](run))
                except UserError as error:
                    unavailable[name] = error
        except (ValueError, ArithmeticError, teacher.TeacherError) as error:
            # an edited or incomplete run must not stop the others
            log.error("skipped %s: %s", folder, error)
            skipped += 1
    if unavailable and not paths:
        raise next(iter(unavailable.values()))
    return Measurements(paths, unavailable, skipped)


def find_run(options: GlobalOptions, folder: Path, source: ImageSource, size: int | None) -> tuple[Path, RunSpec]:
    """Return the run at a folder and its spec. A folder of images becomes a run first.

    Raises ValueError for a run of another dataset, split or size, and for one without a distilled set.
    """
    if not (folder / "spec.json").exists():
        from ddbench.runner.external import plan_external
        from ddbench.runner.plan import evaluation_setup
        from ddbench.runner.run import run as run_plan

        plan = plan_external(folder, source, size, evaluation_setup((), "quick", 1), options.data_paths)
        counts = run_plan(plan, options.settings)
        if counts and counts.failed:
            raise UserError(f"{folder} could not be stored as a run; the reason is printed above")
        return plan.specs[0].folder(options.runs), plan.specs[0]
    spec, split = read_spec(folder / "spec.json"), source.describe(options.data_paths)
    if (spec.dataset, spec.fingerprint) != (display_name(source.name), split.fingerprint):
        raise ValueError(f"its dataset is {spec.dataset}, split {spec.fingerprint[:8]}; "
                         f"--dataset is {display_name(source.name)}, split {split.fingerprint[:8]}")  # fmt: skip
    if size not in (None, spec.size):
        raise ValueError(f"its images have {spec.size} px; --size {size} is for a folder of images: leave it out")
    if not (folder / "distilled").is_dir():
        raise ValueError("it has no distilled set yet: repeat its `ddbench run` command")
    return folder, spec


def features_title(source: str) -> str:
    """Return STUDENT/PROTOCOL with the protocol's version, or STUDENT/imagenet. Raises UserError for anything else."""
    student, slash, row = source.partition("/")
    if not slash or student not in STUDENTS:
        known = ", ".join(STUDENTS)
        raise UserError(f"--features {source} is neither STUDENT/PROTOCOL nor STUDENT/imagenet; {known}")
    try:
        return source if row == "imagenet" else f"{student}/{protocol(row).title}"
    except ValueError as error:
        raise UserError(f"--features {source}: {error}") from None


@dataclass(frozen=True)
class Extractor:
    """A network that computes features.

    prepare: applied to images first.
    weights: identity of the network's weights.
    """

    network: Student
    prepare: Callable[[Tensor], Tensor]
    weights: str

    def read(self, images: Tensor, where: torch.device) -> Tensor:
        """Return float32 features (n, d) of uint8 images (n, 3, h, w)."""
        return torch.cat(list(self.read_batches(images, where)))

    def read_batches(self, images: Tensor, where: torch.device) -> Iterator[Tensor]:
        """Yield what `read` returns, batch by batch."""
        return feature_batches(self.network, images, device=where, batch=64, prepare=self.prepare)


def real_features(run: MeasuredRun, source: str, extractor: Extractor, side: str = "train") -> Tensor:
    """Return features (n, d) of the real images of a side, "train" or "test": a stage that all runs share."""
    images: ImageSet = getattr(run.data, side)
    key: dict[str, str | int] = {
        "features": source,
        "weights": extractor.weights,
        "train": _train_key(run, run.spec.size),
    }
    key |= {"evaluators": VERSION} | ({"side": side} if side != "train" else {})
    folder = run.settings.data_paths.shared / f"features-{digest(key)[:16]}"

    def make(partial_folder: Path) -> None:
        batches = ({"real": part.numpy()} for part in extractor.read_batches(images.images, run.device))
        write_rows(partial_folder / "features.safetensors", len(images.images), batches)

    make_once(folder, make)
    return load_file(folder / "features.safetensors")["real"]


def find_extractor(run: MeasuredRun, source: str) -> Extractor:
    """Return the network of STUDENT/PROTOCOL, trained once on the real images, or that of STUDENT/imagenet.

    Raises UserError for missing weights and for a network that cannot take images of this size.
    """
    student, _, row = source.partition("/")
    try:
        if row != "imagenet":
            size = LARGE if protocol(row).init == "imagenet" else run.spec.size
            data, shared = run.load(size), run.settings.data_paths.shared
            key, progress = _train_key(run, size), progress_bars(run.settings.quiet)
            trained = teacher.get_teacher((student, row), data.train, key, shared, run.device, progress)
            return Extractor(teacher.network(trained, size), partial(resize, size=size), trained.title)
        weights = pretrained.sha256(pretrained.weights_file(student))
        return Extractor(build(student, MIDDLE, 2, 0, "imagenet"), partial(resize, size=LARGE, crop=MIDDLE), weights)
    except (ValueError, pretrained.WeightsError) as error:
        raise UserError(
            f"features {source}: {error}; choose other --features; resnet18/quick@1 needs no download"
        ) from None


def _train_key(run: MeasuredRun, size: int) -> str:
    """Return the identity of the training images at a size."""
    return train_id(replace(run.spec, size=size), run.load(size))
