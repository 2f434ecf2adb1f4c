"""A fine-tuning step of DPD: cached latents and prompts against encoding image and text in every step.

    python benchmarks/dpd_finetune.py [--base tiny] [--size 64] [--batch 64] [--weights all] [--repeat 7] [--compiled]
    python benchmarks/dpd_finetune.py --base SD2 --size 256 --batch 8 --weights lora      SD2: see benchmarks/sd2.py

Same model, batch, loss and optimizer; images of the embedded dataset. The kinds of step take turns. Prints a table
(median seconds per step, images per second, ratio to "encode every time", peak memory), then one JSON line. Seconds are
the processor's (of all threads) with --processor: for machines that do other things beside it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from ddbench.context import generator_of
from ddbench.datasets.scenes import painter
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.diffusion import Objective, diffusion_loss
from ddbench.methods.latent_diffusion.finetune import FinetuneConfig, FinetuneData, finetune_loss, unfreeze
from ddbench.methods.latent_diffusion.latents import Latents, posterior
from ddbench.methods.latent_diffusion.model import LatentModel, load_model
from ddbench.methods.shared.device import mixed_precision
from ddbench.types import ImageSet
from ddbench.utils.distributed import device
from ddbench.utils.images import to_float, to_tensor
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import device_name

USUAL, OURS = "encode every time", "cached (ours)"


def usual_loss(model: LatentModel, train: ImageSet, prompts: list[str], how: FinetuneConfig) -> Callable[[int], Tensor]:
    """The step of the usual training scripts: autoencoder and text encoder run on every batch."""
    goal = Objective(model.scheduler.alphas_cumprod, model.prediction)

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "tune", step)
        rows = torch.randint(len(train.labels), (how.batch,), generator=generator)
        empty = torch.rand(how.batch, generator=generator) < how.empty
        with mixed_precision(model.device, how.precision):
            with torch.no_grad():
                mean, std = posterior(model.vae, to_float(train.images[rows].to(model.device)))
                z = (mean + std * torch.randn_like(std)) * model.vae.config.scaling_factor
                texts = ["" if e else prompts[y] for e, y in zip(empty, train.labels[rows].tolist(), strict=True)]
                words = model.encode_prompts(texts, train.labels[rows].tolist())
            return diffusion_loss(lambda z_t, t: model.denoise(z_t, t, words), z.float(), goal, generator)

    return loss_at


def step_costs(
    model: LatentModel, losses: dict[str, Callable[[int], Tensor]], repeat: int, clock: Callable[[], float]
) -> dict[str, list[tuple[float, int]]]:
    """Seconds and peak bytes (of the GPU, or of the process) of whole steps: loss, gradient, AdamW.

    The kinds take turns; two rounds of warm-up are not counted.
    """
    weights = [p for p in model.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-5)
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in losses}
    for step in range(repeat + 2):
        for name, loss_at in losses.items():
            peak, start = Peak(model.device), clock()
            optimizer.zero_grad(set_to_none=True)
            loss_at(step).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            found[name] += [(clock() - start, peak.compute_bytes)] * (step >= 2)
    return found


def few(size: int, count: int) -> ImageSet:
    """`count` images of the embedded dataset, class after class, enlarged from 64 to `size` pixels."""
    labels = torch.arange(len(painter.CLASSES)).repeat_interleave(-(-count // len(painter.CLASSES)))[:count]
    images = to_tensor(np.stack([painter.scene(label, i, 64) for i, label in enumerate(labels.tolist())]))
    return ImageSet(F.interpolate(images.float(), size).byte(), labels, painter.CLASSES, painter.READABLE)


def losses_of(model: LatentModel, size: int, batch: int, weights: str) -> dict[str, Callable[[int], Tensor]]:
    """Unfreeze the weights; return both losses."""
    train = few(size, 4 * batch)
    prompts = [DPD.prompt.format(name) for name in train.readable]
    precision = "bf16" if model.device.type == "cuda" else "fp32"
    how = FinetuneConfig(weights, 4, 1, batch, 1e-5, 0, 0.1, 0.0, precision)
    mean, std = model.encode(train.images, iter, batch)
    latents = Latents(mean, std, train.labels, model.vae.config.scaling_factor)
    lesson = FinetuneData(latents, model.encode_prompts([*prompts, ""], [*range(len(prompts)), -1]), train.labels)
    unfreeze(model.denoiser, how)
    return {USUAL: usual_loss(model, train, prompts, how), OURS: finetune_loss(model, lesson, how)}


@click.command(help=__doc__)
@click.option("--base", default="tiny", show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--weights", type=click.Choice(["all", "lora"]), default="all", show_default=True)
@click.option("--repeat", default=7, show_default=True)
@click.option("--compiled", is_flag=True, help="torch.compile the denoiser of both")
@click.option("--processor", is_flag=True, help="processor seconds in place of the clock's")
def main(base: str, size: int, batch: int, weights: str, repeat: int, compiled: bool, processor: bool) -> None:  # noqa: PLR0913
    model = load_model(base, device("auto"))
    losses = losses_of(model, size, batch, weights)
    if compiled:
        model.denoiser.compile()
    costs = step_costs(model, losses, repeat, time.process_time if processor else time.perf_counter)
    medians = {name: statistics.median(seconds for seconds, _ in found) for name, found in costs.items()}
    peaks = {name: max(memory for _, memory in found) for name, found in costs.items()}
    ratios = {name: medians[USUAL] / seconds for name, seconds in medians.items()}
    rows = [
        (name, f"{s:.3f}", f"{batch / s:.3g}", f"{ratios[name]:.2f}", f"{peaks[name] / 2**30:.2f}")
        for name, s in medians.items()
    ]
    print(tabulate(rows, ("step", "median s", "images/s", "times as fast", "peak GiB"), disable_numparse=True))
    where = {"device": device_name(model.device), "base": Path(base).name, "size": size, "batch": batch}
    how = {"weights": weights, "compiled": compiled, "clock": "processor" if processor else "wall"}
    figures = {"seconds": medians, "ratio": ratios[OURS], "hours_of_20000_steps": 20_000 * medians[OURS] / 3600}
    print(json.dumps({"benchmark": "dpd_finetune"} | figures | how | where | {"peak_bytes": peaks}))


if __name__ == "__main__":
    main()
