"""Part of benchmarks/gpu.py: whole iterations of DM as a run does them, draws and all, against a plain loop.

CIFAR-10's shapes: 10 classes of 5000 drawn images of 32 px, 256 real images of each class and IPC 10. The plain loop
has all images normalised on the device, builds a network, takes class after class, and looks at the loss every time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from gpu_rows import Bench, Row, take_turns
from torch import Tensor

from ddbench.context import Context, seed_of
from ddbench.methods.dm import DM
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, RealImages, initial_pixels
from ddbench.methods.pixels.network import eager_fallback
from ddbench.methods.pixels.repeated import RepeatedStep
from ddbench.types import ImageSet
from evaluators import dsa
from evaluators.students import build

PART = "methods"
PLAIN, EAGER, GRAPH, COMPILED = "plain loop", "kernel by kernel", "CUDA graph", "CUDA graph, compiled"
MOST = 0.012  # seconds of an iteration on an H200, so that 20 000 take four minutes


def whole_iterations(bench: Bench, ways: tuple[str, ...], iterations: int) -> Iterator[Row]:
    """Yield the seconds of an iteration of each way, and how far its pixels are from the plain loop's at the end."""
    size, classes, each, ipc = (16, 2, 8, 1) if bench.small else (32, 10, 5000, 10)
    names = tuple(f"class {c}" for c in range(classes))
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(256, (classes * each, 3, size, size), dtype=torch.uint8, generator=numbers)
    train = ImageSet(images, torch.arange(classes).repeat_interleave(each), names, names)
    method = DM(batch=4 if bench.small else 256, normalise="constant")
    case = f"dm, whole iterations, {size} px, IPC {ipc}"
    with tempfile.TemporaryDirectory() as folder, eager_fallback():
        ctx = Context(0, bench.device, Path(folder), Path(folder), "drawn", quiet=True)
        loops = {way: prepared(way, method, train, ipc, ctx) for way in ways}
        works = {way: partial(loop, iterations) for way, loop in loops.items()}
        measurements = take_turns(bench, works, 1 if bench.small else 3)
        setup = MatchingSetup.of(train, ctx, "convnet", False, "constant")
        start = time.perf_counter()
        for k in range(iterations):
            method._draw(setup, k)
        draw = (time.perf_counter() - start) / iterations
    for way, m in measurements.items():
        if m.error:
            yield Row(PART, case, way, note=f"failed: {m.error}")
            continue
        seconds, reference = m.median / iterations, measurements[PLAIN]
        figures = {"iterations": iterations, "first_seconds": m.first, "draw_seconds": draw}
        if not reference.error:
            figures["difference"] = float((m.value - reference.value).norm() / reference.value.norm())
        note = f"{seconds * 20_000 / 60:.1f} minutes for 20 000; bar {1000 * MOST:.0f} ms"
        yield Row(
            PART, case, way, seconds, 1 / seconds, "iterations", peak_bytes=m.peak_bytes, note=note, figures=figures,
            ratio=None if reference.error else reference.median / m.median,
        )  # fmt: skip


def prepared(way: str, method: DM, train: ImageSet, ipc: int, ctx: Context) -> Callable[[int], Tensor]:
    """Return a function that takes so many iterations from the same start and returns the pixels."""
    setup = MatchingSetup.of(train, ctx, "convnet", way == COMPILED, "constant")
    first = initial_pixels(setup.real, ipc, "real", ctx)
    sgd = MomentumSGD(first.clone(), method.rate, method.momentum, setup.real.normalisation)
    step = RepeatedStep(partial(method._step, setup, sgd), (sgd.values, sgd.velocity), ctx.device, way != EAGER)
    if way == PLAIN:
        real = setup.real.normalise(train.images.to(ctx.device))
        iterate = partial(plain_iteration, method, replace(setup.real, images=real), sgd, ctx)
    else:
        iterate = lambda k: step(method._draw(setup, k))  # noqa: E731

    def work(iterations: int) -> Tensor:
        sgd.values.copy_(first)
        sgd.velocity.zero_()
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            losses = [iterate(k) for k in range(iterations)]
            torch.stack(losses).tolist()  # a run looks at them once in 20 iterations
        return sgd.values.clone()

    return work


def plain_iteration(method: DM, real: RealImages, sgd: MomentumSGD, ctx: Context, k: int) -> Tensor:
    """Compute class after class, eagerly, in a new module; one backward pass for the sum of the classes."""
    train, S = real.train, sgd.values.detach().clone().requires_grad_()
    net = build("convnet", S.shape[-1], len(S), seed_of(ctx.seed, "dm", "network", k)).to(ctx.device)
    net.requires_grad_(False)
    total = torch.zeros((), device=ctx.device)
    for c, name in enumerate(train.classes):
        numbers = ctx.generator("dm", k, name)
        rows = real.draw_rows(c, method.batch, numbers)
        draw = dsa.draw(1, numbers).to(ctx.device)
        real_mean = net.body(dsa.apply(real.images[rows], draw)).detach().mean(0)
        total = total + (real_mean - net.body(dsa.apply(S[c], draw)).mean(0)).square().sum()
    total.backward()
    sgd.step(S.grad)
    return torch.tensor(total.item())
