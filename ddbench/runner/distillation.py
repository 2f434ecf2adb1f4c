"""One distillation: call the method, check its result, write the set. The evaluation of students is in .evaluation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ddbench.context import Context, global_seed, seed_of
from ddbench.store import distilled_set
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import RunSpec, train_id, write_spec
from ddbench.types import Dataset, DistilledSet, ImageSet, check_distilled_set, checksum
from ddbench.utils.distributed import process_group
from ddbench.utils.files import Stopwatch, make_once, write_json
from ddbench.utils.memory import peaks
from ddbench.utils.provenance import describe_environment

if TYPE_CHECKING:
    from ddbench.runner.plan import ExecutionSettings, Plan, Task


def distill(task: Task, plan: Plan, data: Dataset, device: torch.device, settings: ExecutionSettings) -> None:
    """Write `distilled/` and distill.json of a run; wait where another process is writing them."""
    workdir = task.folder / ".work"
    workdir.mkdir(parents=True, exist_ok=True)
    write_spec(task.folder, task.spec)
    ctx = _context(task.spec, data, device, settings, workdir)
    if not make_once(task.folder / "distilled", lambda partial: _distill_into(partial, task, plan, data.train, ctx)):
        process_group().broadcast(False)
    shutil.rmtree(workdir, ignore_errors=True)


def join_distillation(
    spec: RunSpec, plan: Plan, data: Dataset, device: torch.device, settings: ExecutionSettings
) -> None:
    """Do another process's part of `distill` after the lead has begun; nothing unless the method is `parallel`."""
    if plan.method.parallel:
        ctx = _context(spec, data, device, settings, spec.folder(settings.runs) / ".work")
        _call_method(plan, spec, data.train, ctx)


def _context(spec: RunSpec, data: Dataset, device: torch.device, settings: ExecutionSettings, workdir: Path) -> Context:
    method = f"{spec.method}@{spec.method_version} {spec.source}".strip()
    shared = settings.data_paths.shared
    return Context(spec.seed, device, workdir, shared, train_id(spec, data), settings.quiet, method)


def _distill_into(partial: Path, task: Task, plan: Plan, train: ImageSet, ctx: Context) -> None:
    watch, on_gpu = Stopwatch(), ctx.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(ctx.device)
    before = checksum(train)
    process_group().broadcast(True)
    distilled = _call_method(plan, task.spec, train, ctx)
    check_distilled_set(distilled, train, task.spec.ipc if plan.exact else 0)
    if checksum(train) != before:
        raise ValueError(f"{task.spec.method} changed its training images: a method must work on copies")
    distilled_set.write(partial, Pictures.from_distilled(distilled))
    # the largest peaks: each measured part reset the peak, so take the maximum of all parts and the last
    parts = [cost for cost in ctx.costs if not cost["reused"]]
    last = peaks(ctx.device if on_gpu else None)
    record = {
        "schema": 1,
        "seconds": watch.seconds,
        "stages": list(ctx.costs),
        "memory": {name: max([value, *(part.get(name, 0) for part in parts)]) for name, value in last.items()},
        **describe_environment(ctx.device),
    }
    write_json(task.folder / "distill.json", record)


def _call_method(plan: Plan, spec: RunSpec, train: ImageSet, ctx: Context) -> DistilledSet:
    """Distil with deterministic kernels and seeded global generators; a `parallel` method sees all processes."""
    if plan.method.parallel:
        ctx = replace(ctx, processes=process_group())
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with deterministic, global_seed(seed_of(spec.seed, "global"), ctx.device):
        return plan.method.distill(train, spec.ipc, ctx)
