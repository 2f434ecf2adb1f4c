"""The report of `ddbench doctor`: this machine, the needs of methods, the cost of a run by recorded ones.

torch is imported for the device only.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.config import preset_files
from ddbench.datasets.info import MissingDataError
from ddbench.datasets.lookup import find_dataset
from ddbench.errors import UserError
from ddbench.registry import module_file, names
from ddbench.runner.needs import Need, dataset_need, model_needs
from ddbench.runner.options import GlobalOptions
from ddbench.runner.plan import EvaluationSetup, Request, list_dataset, plan
from ddbench.store.reader import run_folders
from ddbench.store.records import RunSpec, parse_spec
from ddbench.store.results_file import read_lines, read_results
from ddbench.utils.bases import is_local, known_bases
from ddbench.utils.files import read_json
from ddbench.utils.provenance import commit, versions
from ddbench.utils.units import format_bytes

HUB = "Hugging Face hub"
DISTILLATION = "distillation"


@dataclass(frozen=True)
class Precedent:
    """A recorded distillation, or the training and test of a student.

    task: "distillation", or the student's name and its protocol.
    seconds: wall time. memory: peak bytes of the process. gpu_memory: peak bytes on the GPU, 0 without one.
    """

    spec: RunSpec
    folder: Path
    seconds: float
    memory: int
    gpu_memory: int
    device: str
    task: str = DISTILLATION


def describe_machine(options: GlobalOptions) -> dict[str, Any]:
    """Return versions, device and memory, and free disk of the folders that are written, as JSON values."""
    from huggingface_hub.constants import HF_HUB_CACHE

    revision, dirty = commit()
    folders = {"runs": options.runs, "shared": options.shared, HUB: Path(HF_HUB_CACHE)}
    folders |= {"data": options.data} if options.data else {}
    return {
        "versions": versions(),
        "commit": revision,
        "dirty": dirty,
        "device": _describe_device(options.device),
        "disk": {name: {"path": str(path), "free": _free(path)} for name, path in folders.items()},
    }


def _describe_device(name: str) -> dict[str, Any]:
    """Return the device that runs would use, its memory and free memory in bytes; "error" if there is none."""
    total, free = _memory()
    values = {"machine": platform.machine(), "cores": os.cpu_count(), "memory": total, "free_memory": free}
    try:
        import torch

        from ddbench.utils import distributed
        from ddbench.utils.provenance import device_name

        device = distributed.device(name)
        values["name"] = device_name(device)
        if device.type == "cuda":
            values["free_gpu_memory"], values["gpu_memory"] = torch.cuda.mem_get_info(device)
    except (UserError, ImportError, RuntimeError) as error:
        values["error"] = str(error).splitlines()[0]
    return values


def _memory() -> tuple[int, int]:
    """Return the bytes of memory of this machine and those available; zeros where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return tuple(1024 * int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))  # type: ignore[return-value]
    except (OSError, ValueError, KeyError):
        return 0, 0


def _free(path: Path) -> int:
    """Return the free bytes of the disk that a path is on, or will be."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def list_data(options: GlobalOptions) -> list[dict[str, Any]]:
    """Return every dataset as a need, with the number of its images, or what is wrong with them, in `state`."""
    rows = []
    for name in names("datasets"):
        try:
            source = find_dataset(name)
        except UserError as error:
            rows.append({"name": name, "state": str(error).splitlines()[0], "present": False})
            continue
        try:
            split = source.describe(options.data_paths)
            state, present = f"{sum(map(len, (*split.train, *split.test)))} images", True
        except MissingDataError:
            state, present = "missing", False
        except UserError as error:
            state, present = str(error).splitlines()[0], False
        rows.append({**asdict(dataset_need(source, present)), "state": state})
    return rows


def list_bases() -> list[dict[str, Any]]:
    """Return every known base model: its name, hub id, bytes to download and whether it is there."""
    return [
        {"name": row.name, "repo": row.repo, "size": row.size, "present": is_local(row.repo or row.name)}
        for row in known_bases().values()
    ]


def list_methods() -> list[dict[str, Any]]:
    """Return every method with the models that it loads, by its defaults and by each of its presets."""
    rows = []
    for name in names("methods"):
        file = module_file(name)
        for preset in (None, *(preset_files(file, name) if file else ())):
            try:
                models = [asdict(need) for need in model_needs(name, preset)]
                rows.append({"method": name, "preset": preset, "models": models})
            except UserError as error:
                rows.append({"method": name, "preset": preset, "models": [], "error": str(error).splitlines()[0]})
    return rows


def check_request(request: Request, evaluation: EvaluationSetup, options: GlobalOptions) -> dict[str, Any]:
    """Return what a run needs, what it costs by the nearest recorded runs, and why it would fail, as JSON values.

    An empty name of a dataset stands for any: its images are not looked for, and costs are those on all datasets.

    costs: of the distillation, and of each student; None where nothing similar is recorded.
    problems: reasons why the command would fail now.
    """
    problems: list[str] = []
    needs: list[Need] = []
    spec = None
    try:
        models = model_needs(request.method, request.preset, request.config, request.sets)
        needs += models
        if request.dataset:
            source = find_dataset(request.dataset)
            try:
                listed = list_dataset(source, options.data_paths)
                needs.append(dataset_need(source, True))
            except MissingDataError:
                needs.append(dataset_need(source, False))
                problems.append(f"the images of {source.name} are missing: {needs[-1].command}")
            if not problems and all(model.present for model in models):
                spec = plan(request, evaluation, options.data_paths, listed).specs[0]
            request = replace(request, size=request.size or source.pixels)
        if request.size:
            evaluation.check_size(request.size)
    except UserError as error:
        problems += [line for line in str(error).splitlines()[:2] if line not in problems]
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    fetched = [need for need in needs if not need.present and need.use != "dataset"]
    if HF_HUB_OFFLINE:
        problems += [f"{need.use} {need.name} is missing, and HF_HUB_OFFLINE forbids to fetch it" for need in fetched]
    download, free = sum(need.size for need in fetched), _free(Path(HF_HUB_CACHE))
    if download > free:
        problems.append(f"{format_bytes(download)} are downloaded, and {HF_HUB_CACHE} has {format_bytes(free)} free")
    device = _describe_device(options.device)
    if "error" in device:
        problems.append(device["error"])
    costs = estimate_costs(request, spec, evaluation, options.runs)
    for task, cost in costs.items():
        for kind, name in (("memory", "memory"), ("gpu_memory", "GPU memory")):
            if cost and 0 < device.get(kind, 0) < cost[kind]:
                few, all_of_it = format_bytes(cost[kind]), format_bytes(device[kind])
                problems.append(f"{task} takes {few} of {name}, of {all_of_it} in all")
    return {"needs": [asdict(need) for need in needs], "costs": costs, "problems": problems}


def estimate_costs(
    request: Request, spec: RunSpec | None, evaluation: EvaluationSetup, runs: Path
) -> dict[str, dict[str, Any] | None]:
    """Return the recorded costs below `runs` that are nearest to a request, by task; None without one.

    The nearest distillations are those of the same settings; then of the same method, preset, size, IPC and dataset;
    then the same without the dataset; then without the IPC. The nearest students have the same name, protocol, size,
    IPC and dataset, of any method; then the same without the dataset; then without the IPC. "precedents" says which,
    and how many; seconds are their median, bytes of memory their maximum. A distillation that reused a stage counts
    with the seconds that making it took.
    """
    recorded = list(_precedents(runs))
    ipc = request.ipcs[0] if request.ipcs else 0

    def fits(*keys: str) -> Callable[[Precedent], bool]:
        values = {"preset": request.preset, "size": request.size, "ipc": ipc, "dataset": request.dataset}
        known = {key: value for key, value in values.items() if key in keys}
        return lambda one: all(getattr(one.spec, key) == value for key, value in known.items())

    of_method = [one for one in recorded if (one.task, one.spec.method) == (DISTILLATION, request.method)]
    settings = {
        "same settings": lambda one: spec is not None and replace(spec, seed=0) == replace(one.spec, seed=0),
        "same preset, size, IPC and dataset": fits("preset", "size", "ipc", "dataset"),
        "same preset, size and IPC, any dataset": fits("preset", "size", "ipc"),
        "same preset and size, any IPC": fits("preset", "size"),
    }
    same = {
        "same size, IPC and dataset": fits("size", "ipc", "dataset"),
        "same size and IPC, any dataset": fits("size", "ipc"),
        "same size, any IPC": fits("size"),
    }
    tasks = [f"{student} by {evaluation.protocol.title}" for student in evaluation.students]
    students = {task: _nearest([one for one in recorded if one.task == task], same) for task in tasks}
    return {DISTILLATION: _nearest(of_method, settings), **students}


def _nearest(recorded: Iterable[Precedent], steps: dict[str, Callable[[Precedent], bool]]) -> dict[str, Any] | None:
    """Return the cost of those that the first of `steps` accepts any of, by the step's title; None if none does."""
    recorded = list(recorded)
    for title, same in steps.items():
        if near := [one for one in recorded if same(one)]:
            return {
                "seconds": statistics.median(one.seconds for one in near),
                "memory": max(one.memory for one in near),
                "gpu_memory": max(one.gpu_memory for one in near),
                "precedents": f"{len(near)} recorded: {title}",
                "devices": sorted({one.device for one in near}),
                "runs": [str(one.folder) for one in near[:3]],
            }
    return None


def _precedents(runs: Path) -> Iterator[Precedent]:
    """Yield the distillations and students below `runs`, or in an exported file; a damaged record is left out."""
    for stored in read_results(runs, details=False).results if runs.exists() else ():
        result = stored.result
        gpu = result.memory_bytes if result.device.startswith("cuda") else 0
        task, memory = f"{result.student} by {result.title}", result.memory_bytes - gpu
        yield Precedent(stored.spec, stored.folder, result.seconds, memory, gpu, result.device, task)
    for folder, spec, record in _distillations(runs):
        try:
            reused = [stage for stage in record.get("stages", ()) if stage.get("reused")]
            seconds = record["seconds"] + sum(stage["seconds"] - stage.get("waited", 0.0) for stage in reused)
            memory = record.get("memory", {})
            sizes = (int(memory.get("rss_bytes", 0)), int(memory.get("cuda_bytes", 0)))
            device = str(record.get("device", ""))
            yield Precedent(parse_spec(spec, folder.name), folder, float(seconds), *sizes, device)
        except (ValueError, KeyError, TypeError, AttributeError, UserError):
            continue


def _distillations(runs: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yield (folder, content of spec.json, content of distill.json) of each run that has both."""
    if not runs.is_file():
        for folder in run_folders(runs):
            with suppress(OSError, ValueError):
                yield folder, read_json(folder / "spec.json"), read_json(folder / "distill.json")
        return
    specs: dict[Path, Any] = {}
    for _, line in read_lines(runs, []):
        folder = runs.joinpath(*Path(line.path).parts[:4])
        if line.kind == "spec":
            specs[folder] = line.data
        elif line.kind == "cost":
            yield folder, specs.get(folder), line.data
