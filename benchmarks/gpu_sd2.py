"""Part of benchmarks/gpu.py: fine-tuning and sampling a base of Stable Diffusion 2's size with random weights.

Sampling: prototypes one at a time against one stream (dpd_sample.py). Fine-tuning: LoRA steps on cached latents and
prompts against encoding both in every step (dpd_finetune.py); the arithmetic of a step, counted by torch, as a share of
the matrix products that the card does in the same process. cuDNN is deterministic, as in `ddbench run`. With --small:
the embedded base.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import dpd_finetune
import dpd_sample
import sd2
import torch
from gpu_ceilings import product_rate
from gpu_rows import Bench, Row, run_cases, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddbench import config
from ddbench.context import Context
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.model import LatentModel, load_model

PART = "sd2"
SAMPLING_GOAL, TUNING_GOAL, SHARE_GOAL = 3.0, 1.5, 0.4
STEPS = 20_000  # of DPD's fine-tuning, projected


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The size of the work that is timed.

    pixels: side of an image. batch: images of a fine-tuning step. prototypes: images sampled. repeat: turns.
    """

    pixels: int = 256
    batch: int = 8
    prototypes: int = 16
    sampling_steps: int = 50
    repeat: int = 10


SMALL = Sizes(64, 2, 2, 2, 1)


def load_base(bench: Bench, folder: Path) -> tuple[LatentModel, dict[str, float]]:
    """Write the base below `folder` and load it; return the model and the seconds of both."""
    if bench.small:
        return load_model("tiny", bench.device), {}
    start = time.perf_counter()
    sd2.write(folder / "sd2", bench.device)
    written = time.perf_counter()
    model = load_model(str(folder / "sd2"), bench.device)
    return model, {"writing_seconds": written - start, "loading_seconds": time.perf_counter() - written}


def sampling_rows(bench: Bench, model: LatentModel, sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Yield images per second of both ways of sampling."""
    settings = ("weights=none", "candidates=1", f"steps={sizes.sampling_steps}")
    ours = config.build(DPD, "tgrs", sets=settings)
    methods = {dpd_sample.ALONE: dataclasses.replace(ours, batch=1), dpd_sample.OURS: ours}
    train = dpd_finetune.few(sizes.pixels, sizes.prototypes)
    prototypes = dpd_sample.evenly(train, sizes.prototypes)
    ctx = Context(0, model.device, folder, folder, "", quiet=True)
    dpd_sample.sampled(ours, model, train, prototypes[:1], ctx)  # fills caches, so the turns are one each
    ways = {way: partial(dpd_sample.sampled, method, model, train, prototypes, ctx) for way, method in methods.items()}
    measurements = {}
    for way, work in ways.items():
        seconds, peak, latents = bench.timed(work)
        measurements[way] = seconds, latents
        ratio = measurements[dpd_sample.ALONE][0] / seconds
        apart = (measurements[dpd_sample.ALONE][1] - latents).abs().max()
        yield Row(
            PART, f"sampling, {sizes.pixels} px, {sizes.sampling_steps} steps", way, seconds / len(prototypes),
            len(prototypes) / seconds, "images", ratio=ratio, goal=SAMPLING_GOAL if way == dpd_sample.OURS else None,
            peak_bytes=peak, figures=vars(sizes) | {"largest_difference": float(apart)},
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The LoRA steps of one model, whose weights become free once.

    losses: by way. weights: those that are free. flops: arithmetic of the loss and the gradient of ddbench's step.
    """

    losses: dict[str, Callable[[int], Tensor]]
    weights: list[Tensor]
    flops: int

    @classmethod
    def of(cls, model: LatentModel, sizes: Sizes) -> Tuning:
        losses = dpd_finetune.losses_of(model, sizes.pixels, sizes.batch, "lora")
        with FlopCounterMode(display=False) as counter:
            losses[dpd_finetune.OURS](0).backward()
        return cls(losses, [p for p in model.denoiser.parameters() if p.requires_grad], counter.get_total_flops())


def tuning_rows(
    bench: Bench, model: LatentModel, sizes: Sizes, prepare: Callable[[], Tuning], compiled: bool = False
) -> Iterator[Row]:
    """Yield the seconds of a LoRA step of both ways, with the projection, and the arithmetic of ddbench's step.

    compiled: ddbench's step alone, its denoiser through torch.compile.
    """
    tuning = prepare()
    losses, weights = tuning.losses, tuning.weights
    if compiled:
        model.denoiser.compile()
        losses = {dpd_finetune.OURS: losses[dpd_finetune.OURS]}
    optimizer = torch.optim.AdamW(weights, 1e-5)

    def step(way: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses[way](0).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    measurements = take_turns(bench, {way: partial(step, way) for way in losses}, sizes.repeat)
    reference = measurements.get(dpd_finetune.USUAL)
    case = f"LoRA step, {sizes.pixels} px, batch {sizes.batch}" + (", compiled" if compiled else "")
    for way, m in measurements.items():
        if m.error:
            yield Row(PART, case, way, note=f"failed: {m.error}")
            continue
        hours = STEPS * m.median / 3600
        ratio = reference.median / m.median if reference and not reference.error else None
        yield Row(
            PART, case, way, m.median, sizes.batch / m.median, "images", ratio=ratio,
            goal=TUNING_GOAL if way == dpd_finetune.OURS and ratio else None, peak_bytes=m.peak_bytes,
            note=f"{STEPS} steps: {hours:.2f} h", figures=vars(sizes) | {"hours": hours, "first_seconds": m.first},
        )  # fmt: skip
    if not measurements[dpd_finetune.OURS].error:
        rate = tuning.flops / statistics.median(measurements[dpd_finetune.OURS].seconds)
        precision = "bf16" if bench.device.type == "cuda" else "fp32"
        yield Row(
            PART, f"{case}, arithmetic", dpd_finetune.OURS, rate=rate / 1e12, unit="TFLOP",
            ratio=rate / product_rate(bench, precision), goal=SHARE_GOAL, note="ratio: to a matrix product",
        )  # fmt: skip


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part."""
    sizes = SMALL if bench.small else Sizes()
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with TemporaryDirectory() as folder, flags:
        model, seconds = load_base(bench, Path(folder))
        if seconds:
            yield Row(PART, "base", "written and loaded", sum(seconds.values()), figures=seconds)
        prepare = cache(partial(Tuning.of, model, sizes))
        cases = {
            "LoRA step": (5.0, partial(tuning_rows, bench, model, sizes, prepare)),
            "sampling": (5.0, partial(sampling_rows, bench, model, sizes, Path(folder))),
        }
        if not bench.small:
            cases["LoRA step, compiled"] = (45.0, partial(tuning_rows, bench, model, sizes, prepare, True))
        yield from run_cases(PART, bench, cases)
