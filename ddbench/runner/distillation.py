"""The first of the two pieces of work behind every number: one distillation. The second is .evaluation."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddbench.context import Context, global_seed, seed_of
from ddbench.errors import UserError
from ddbench.store import distilled_set
from ddbench.store.records import RunSpec, write_spec
from ddbench.types import Dataset, DistilledSet, ImageSet
from ddbench.utils import provenance
from ddbench.utils.distributed import join
from ddbench.utils.files import Stopwatch, digest, make_once, write_json
from ddbench.utils.memory import peaks

if TYPE_CHECKING:
    from ddbench.runner.plan import Plan, Setting, Task

CHECKED_BYTES = 256 << 20  # of the training images are compared before and after; beyond that every k-th image


def device(name: str) -> torch.device:
    """ "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:1"; UserError when there is no such device.

    Several processes of one launch have a GPU each, their current one: "cuda:1" would be the same for all.
    """
    if ":" in name and join().size > 1:
        raise UserError(f"--device {name}: {join().size} processes would share it; --device auto gives each its own")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(name)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name}; CUDA devices: {torch.cuda.device_count()}; try --device auto")
    return found


def distill(task: Task, plan: Plan, data: Dataset, where: torch.device, setting: Setting) -> None:
    """Make `distilled/` and distill.json in the run's folder; another process that is making them is waited for."""
    work = task.folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    write_spec(task.folder, task.spec)
    ctx = _context(task.spec, data, where, setting, work)
    if not make_once(task.folder / "distilled", lambda partial: _fill(partial, task, plan, data.train, ctx)):
        join().told(False)
    shutil.rmtree(work, ignore_errors=True)


def assist(spec: RunSpec, plan: Plan, data: Dataset, where: torch.device, setting: Setting) -> None:
    """Another process's part of `distill`, once the lead has begun; nothing for a method that is not `parallel`."""
    if _parallel(plan):
        ctx = _context(spec, data, where, setting, spec.folder(setting.runs) / ".work")
        _made(plan, spec, data.train, replace(ctx, team=join()))


def train_id(spec: RunSpec, data: Dataset) -> str:
    """What identifies the training images, part of the key of every shared stage."""
    return digest([spec.dataset, spec.fingerprint, spec.size, data.content])


def checked(made: DistilledSet, train: ImageSet, ipc: int) -> None:
    """Raise ValueError unless the set keeps the classes, the size and the budget of `ipc` per class (0: none)."""
    if not isinstance(made, DistilledSet):
        raise ValueError(f"distill must return a DistilledSet, not {type(made).__name__}")
    if tuple(made.classes) != tuple(train.classes):
        raise ValueError(f"the classes were changed: {made.classes} instead of {train.classes}")
    if made.images.shape[2:] != train.images.shape[2:]:
        shapes = tuple(made.images.shape[2:]), tuple(train.images.shape[2:])
        raise ValueError(f"images are {shapes[0]} pixels, the training images {shapes[1]}")
    made.check(ipc)


def checksum(images: ImageSet) -> int:
    """CRC-32 of labels and pixels, of evenly spaced images when there are many: finds a method that writes to them."""
    step = max(1, images.images.numel() // CHECKED_BYTES)
    crc = zlib.crc32(images.labels.numpy().tobytes())
    for part in images.images[::step].split(256):
        crc = zlib.crc32(part.contiguous().numpy().data, crc)
    return crc


def pictures_of(made: DistilledSet) -> distilled_set.Pictures:
    """A distilled set as it goes to disk."""
    images = made.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    soft = None if made.soft_labels is None else made.soft_labels.detach().cpu().numpy()
    found = distilled_set.Pictures(images, made.labels.cpu().numpy(), tuple(made.classes), soft, dict(made.extras))
    return distilled_set.sorted_by_class(found)


def _context(spec: RunSpec, data: Dataset, where: torch.device, setting: Setting, work: Path) -> Context:
    method = f"{spec.method}@{spec.method_version} {spec.source}".strip()
    return Context(spec.seed, where, work, setting.place.shared, train_id(spec, data), setting.quiet, method)


def _fill(partial: Path, task: Task, plan: Plan, train: ImageSet, ctx: Context) -> None:
    watch = Stopwatch()
    _reset_peak(ctx.device)
    before = checksum(train)
    join().told(True)
    made = _made(plan, task.spec, train, replace(ctx, team=join()) if _parallel(plan) else ctx)
    checked(made, train, task.spec.ipc if plan.exact else 0)
    if checksum(train) != before:
        raise ValueError(f"{task.spec.method} changed the training images it was given")
    distilled_set.write(partial, pictures_of(made))
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
        **origin(ctx.device),
    }


def _memory(ctx: Context) -> dict[str, int]:
    """The largest peaks: those of the parts that were measured, each of which began anew, and the last."""
    found = peaks(ctx.device if ctx.device.type == "cuda" else None)
    return {k: max([v, *(cost.get(k, 0) for cost in ctx.costs if not cost["reused"])]) for k, v in found.items()}


def origin(where: torch.device) -> dict[str, Any]:
    """What a figure came from, as every file of figures records it: device, versions, commit, dirty."""
    commit, dirty = provenance.commit()
    return {"device": device_words(where), "versions": provenance.versions(), "commit": commit, "dirty": dirty}


def device_words(where: torch.device) -> str:
    """What computed: the GPU's name, or the CPU's number of threads (sums are grouped by it)."""
    if where.type == "cuda":
        return f"{where.type} ({torch.cuda.get_device_name(where)})"
    return f"{where.type} ({torch.get_num_threads()} threads)"


def _reset_peak(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
