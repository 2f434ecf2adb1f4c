"""The first of the two pieces of work behind every number: one distillation. The second is .evaluation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def distill(task: Task, plan: Plan, data: Dataset, where: torch.device, settings: ExecutionSettings) -> None:
    """Make `distilled/` and distill.json in the run's folder; another process that is making them is waited for."""
    work = task.folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    write_spec(task.folder, task.spec)
    ctx = _context(task.spec, data, where, settings, work)
    if not make_once(task.folder / "distilled", lambda partial: _fill(partial, task, plan, data.train, ctx)):
        process_group().broadcast(False)
    shutil.rmtree(work, ignore_errors=True)


def join_distillation(
    spec: RunSpec, plan: Plan, data: Dataset, where: torch.device, settings: ExecutionSettings
) -> None:
    """Another process's part of `distill`, once the lead has begun; nothing for a method that is not `parallel`."""
    if _parallel(plan):
        ctx = _context(spec, data, where, settings, spec.folder(settings.runs) / ".work")
        _made(plan, spec, data.train, replace(ctx, processes=process_group()))


def _context(spec: RunSpec, data: Dataset, where: torch.device, settings: ExecutionSettings, work: Path) -> Context:
    method = f"{spec.method}@{spec.method_version} {spec.source}".strip()
    return Context(spec.seed, where, work, settings.data_paths.shared, train_id(spec, data), settings.quiet, method)


def _fill(partial: Path, task: Task, plan: Plan, train: ImageSet, ctx: Context) -> None:
    watch = Stopwatch()
    _reset_peak(ctx.device)
    before = checksum(train)
    process_group().broadcast(True)
    made = _made(plan, task.spec, train, replace(ctx, processes=process_group()) if _parallel(plan) else ctx)
    check_distilled_set(made, train, task.spec.ipc if plan.exact else 0)
    if checksum(train) != before:
        raise ValueError(f"{task.spec.method} changed the training images it was given")
    distilled_set.write(partial, Pictures.from_distilled(made))
    write_json(task.folder / "distill.json", _costs(watch.seconds, ctx))


def _made(plan: Plan, spec: RunSpec, train: ImageSet, ctx: Context) -> DistilledSet:
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with exact, global_seed(seed_of(spec.seed, "global"), ctx.device):
        return plan.method.distill(train, spec.ipc, ctx)


def _parallel(plan: Plan) -> bool:
    return bool(getattr(plan.method, "parallel", False))


def _costs(seconds: float, ctx: Context) -> dict[str, Any]:
    return {
        "schema": 1,
        "seconds": seconds,
        "stages": list(ctx.costs),
        "memory": _memory(ctx),
        **describe_environment(ctx.device),
    }


def _memory(ctx: Context) -> dict[str, int]:
    """The largest peaks: those of the parts that were measured, each of which began anew, and the last."""
    found = peaks(ctx.device if ctx.device.type == "cuda" else None)
    return {k: max([v, *(cost.get(k, 0) for cost in ctx.costs if not cost["reused"])]) for k, v in found.items()}


def _reset_peak(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
