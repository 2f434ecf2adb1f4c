"""Distil, train students, test them: one run, or the evaluation of existing images. No torch until it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddbench.api.data import find_source, whole_number
from ddbench.api.results import Results
from ddbench.datasets.name import MEMORY
from ddbench.errors import FailedRunError, UserError
from ddbench.runner.external import pictures_of, plan_external, plan_pictures
from ddbench.runner.options import SMALLEST, GlobalOptions
from ddbench.runner.plan import EvaluationSetup, Plan, Request, evaluation_setup, list_dataset, plan, tasks
from ddbench.runner.run import run as run_plan
from ddbench.store import distilled_set
from ddbench.store.costs import read_cost
from ddbench.store.failures import read_failure
from ddbench.store.paths import failure_path
from ddbench.store.records import StoredResult, read_result
from ddbench.utils.distributed import process_group

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.datasets.memory import Items
    from ddbench.types import ImageSet


@dataclass(frozen=True, eq=False)
class Run:
    """One distillation with the results of its students.

    images: the distilled images as they are on disk, uint8 (n, 3, h, w), 0..255, class by class.
    labels: their labels, int64 (n,), ascending.
    classes: names in label order.
    results: one for each student and each of its seeds.
    folder: the run's folder: distilled/, contact.png, spec.json, distill.json, results/.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    results: Results
    folder: Path


def run(  # noqa: PLR0913
    method: str,
    *,
    dataset: str | tuple[Items, Items],
    ipc: int | None = None,
    size: int | None = None,
    preset: str | None = None,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    students: str | Sequence[str] = ("convnet",),
    student_seeds: int = 1,
    protocol: str | os.PathLike[str] = "quick",
    corruptions: bool = False,
    compiled: bool = False,
    retry: bool = False,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    runs: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    shared: str | os.PathLike[str] | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Run:
    """Distil a dataset, train students on the set, test them on real images, as `ddbench run` does.

    It plans the same run with the same digest and writes the same files. What exists is not computed again, so an
    interrupted call resumes, and a second call reads.

    method: a name (`list_methods`) or "path/to/file.py:Class".
    dataset: a name (`ddbench list datasets`), "folder:PATH" or "hf:OWNER/NAME", with "@SPLIT" after it for another
        split; or (train, test), two torch datasets. Their items are (image, label), or dicts with "image" and "label"
        (torchgeo). Images are Pillow images, uint8 (3, h, w), floats 0 to 1 or 0 to 255, without random transforms.
        Class names, pixels and labels identify the set; every call reads it to compute that.
    ipc: images per class, 1 or more; None for `full`.
    size: side of the images, px, 8 or more; None for the dataset's own. The shorter side is scaled, the centre cropped.
    preset: named settings of the method (`ddbench show METHOD`). config: TOML file over them.
    settings: hyper-parameters by name, over both.
    seed: of the distillation, 0 or more.
    students: names of networks to train. student_seeds: how many of each, with seeds 0, 1, ...
    protocol: training settings of the students: a name (newest version), "NAME@VERSION" or a TOML file.
    corruptions: test them on corrupted images too. compiled: train them through torch.compile; rounding differs.
    retry: repeat what failed earlier.
    classes: names of the classes of two torch datasets, in label order; None for their attribute `classes`.
    dataset_name: name of two torch datasets in tables and folders; empty for the name of their class.
    runs, data_root, shared: folders of runs, of raw datasets, of packs and stages; None for the environment variables
        DDBENCH_RUNS, DDBENCH_DATA, DDBENCH_SHARED, else "runs", none, "shared".
    device: "auto", "cpu", "cuda" or "cuda:1"; None for DDBENCH_DEVICE, else "auto".
    resize: the filter; results of different filters never share a row.
    quiet: no progress on standard error: a bar on a terminal, else a line now and then.

    Raises UserError for an invalid argument or missing data, before anything is written, and FailedRunError if the
    distillation or a student failed. Both are `ddbench.Error`.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=2, students=["convnet"])
    >>> run.images.shape, run.labels.tolist()
    (torch.Size([4, 3, 8, 8]), [0, 0, 1, 1])
    >>> 0 <= run.results[0].result.overall <= 1
    True
    """
    options = GlobalOptions.of_call(quiet, resize, runs=runs, data=data_root, shared=shared, device=device)
    evaluation = _evaluation(students, protocol, student_seeds, corruptions)
    ipcs = () if ipc is None else (whole_number("ipc", ipc, 1),)
    source = find_source(dataset, classes, dataset_name, options.quiet)
    request = Request(
        method,
        source.name,
        ipcs,
        whole_number("size", size, SMALLEST),
        preset,
        None if config is None else Path(config).expanduser(),
        seeds=(whole_number("seed", seed, 0),),
        settings=settings,
    )
    planned = plan(request, evaluation, options.data_paths, list_dataset(source, options.data_paths))
    return _carry_out(planned, options, compiled, retry)


def evaluate(  # noqa: PLR0913
    images: str | os.PathLike[str] | Run | ImageSet | tuple[Tensor, Tensor],
    *,
    dataset: str | tuple[Items, Items],
    name: str = "images",
    size: int | None = None,
    students: str | Sequence[str] = ("convnet",),
    student_seeds: int = 1,
    protocol: str | os.PathLike[str] = "quick",
    corruptions: bool = False,
    compiled: bool = False,
    retry: bool = False,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    runs: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    shared: str | os.PathLike[str] | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Run:
    """Train students on existing images and test them on a dataset's real ones, as `ddbench evaluate` does.

    images: a folder with one sub-folder per class (soft_labels.safetensors is read); what `run` returned; a
        `ddbench.types.DistilledSet`; or (images, labels), uint8 (n, 3, size, size) and int64 (n,) in the order of the
        dataset's classes. They are stored as a run of the method "folder:NAME" or "memory:NAME".
    name: of images in memory, in tables and folders; a folder has its own.
    size: side of the images, px; None for the dataset's own, of a run and of images in memory for theirs.

    All other arguments, the record and the errors are those of `run`.

    >>> data = ddbench.load_dataset("folder:images")
    >>> mean = torch.stack([data.train.images[data.train.of_class(c)].float().mean(0) for c in (0, 1)])
    >>> run = ddbench.evaluate((mean.byte(), torch.arange(2)), dataset="folder:images", name="class means")
    >>> run.results[0].spec.method, run.results[0].spec.ipc
    ('memory:class means', 1)
    """
    options = GlobalOptions.of_call(quiet, resize, runs=runs, data=data_root, shared=shared, device=device)
    evaluation = _evaluation(students, protocol, student_seeds, corruptions)
    pixels = whole_number("size", size, SMALLEST)
    source = find_source(dataset, classes, dataset_name, options.quiet)
    if isinstance(images, Run):
        pixels = pixels or images.images.shape[-1]
        images = images.folder / "distilled"
    if isinstance(images, str | os.PathLike):
        planned = plan_external(Path(images).expanduser(), source, pixels, evaluation, options.data_paths)
    else:
        pictures = pictures_of(images, source, pixels)
        listed = list_dataset(source, options.data_paths)
        planned = plan_pictures(pictures, f"{MEMORY}{name}", None, listed, evaluation)
    return _carry_out(planned, options, compiled, retry)


def _evaluation(
    students: str | Sequence[str], protocol: str | os.PathLike[str], seeds: int, corruptions: bool
) -> EvaluationSetup:
    names = (students,) if isinstance(students, str) else tuple(students)
    return evaluation_setup(names, os.fspath(protocol), whole_number("student_seeds", seeds, 1), corruptions)


def _carry_out(planned: Plan, options: GlobalOptions, compiled: bool, retry: bool) -> Run:
    """Do the missing tasks of one run and read its files. Raises FailedRunError."""
    if process_group(options.device == "cpu").size > 1:
        raise UserError("a call uses one process; for several: accelerate launch -m ddbench run ...")
    if options.runs.is_file():
        raise UserError(f"{options.runs} is a file: name a folder of runs")
    settings = replace(options.settings, compiled=compiled)
    counts = run_plan(planned, settings, retry)
    todo = list(tasks(planned, settings.runs))
    if counts is None or counts.failed:
        lines = []
        for task in todo:
            if not task.done and (failure := read_failure(task.path)):
                lines.append(f"{task.description}: {failure.status}: {failure.error}; see {failure_path(task.path)}")
        raise FailedRunError("\n".join([*lines, "retry=True repeats what failed"]))
    import torch

    (spec,), folder = planned.specs, todo[0].folder
    pictures = distilled_set.read(folder / "distilled")
    entries = tuple(StoredResult(spec, read_result(task.result), task.result) for task in todo if task.result)
    return Run(
        pictures.to_tensor(),
        torch.from_numpy(pictures.labels),
        pictures.classes,
        Results(entries, costs={folder: read_cost(folder)}),
        folder,
    )
