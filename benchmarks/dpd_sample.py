"""Sampling of DPD: one stream over all prototypes against one prototype at a time.

    python benchmarks/dpd_sample.py [--base tiny] [--preset tiny] [--size 64] [--prototypes 64] [--compiled]
    python benchmarks/dpd_sample.py --base SD2 --preset tgrs --size 256        SD2: see benchmarks/sd2.py

Same model, prototypes and noise, and the same latents up to rounding (the largest difference is printed). The two take
turns. Prints a table (median seconds, images per second, ratio to "one at a time", peak memory), then one JSON line.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from dpd_finetune import few
from tabulate import tabulate
from torch import Tensor

from ddbench import config
from ddbench.context import Context
from ddbench.methods.dpd.distiller import DPD, candidate_starts
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, load_model
from ddbench.methods.latent_diffusion.prompts import class_prompts
from ddbench.methods.latent_diffusion.prototypes import Prototype
from ddbench.types import ImageSet
from ddbench.utils.distributed import device
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import device_name

ALONE, OURS = "one at a time", "one stream (ours)"


def evenly(train: ImageSet, count: int) -> list[Prototype]:
    """`count` images spread over the training split, as if they were prototypes."""
    rows = torch.linspace(0, len(train.labels) - 1, count).long().tolist()
    return [Prototype(int(train.labels[row]), i, row, "", 1, 0.0, 0.0, 0.0) for i, row in enumerate(rows)]


def sampled(method: DPD, model: LatentModel, train: ImageSet, prototypes: list[Prototype], ctx: Context) -> Tensor:
    """Return the latents of all prototypes, on the CPU."""
    rows = torch.tensor([p.row for p in prototypes])
    mean, std = model.encode(train.images[rows], iter, 64)
    latents = Latents(mean, std, train.labels[rows], model.vae.config.scaling_factor)
    renumbered = [dataclasses.replace(p, row=i) for i, p in enumerate(prototypes)]
    prompts = class_prompts(method.prompt, train.readable, latents.labels)
    return method.sample_latents(model, candidate_starts(renumbered, latents, prompts, 1), ctx)[0]


@click.command(help=__doc__)
@click.option("--base", default="tiny", show_default=True)
@click.option("--preset", default="tiny", show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--prototypes", "count", default=64, show_default=True)
@click.option("--repeat", default=3, show_default=True)
@click.option("--compiled", is_flag=True, help="torch.compile the denoiser of both")
def main(base: str, preset: str, size: int, count: int, repeat: int, compiled: bool) -> None:
    ours = config.build(DPD, preset, sets=(f"base={base}", "weights=none", "candidates=1"))
    methods = {ALONE: dataclasses.replace(ours, batch=1), OURS: ours}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    peaks = dict.fromkeys(methods, 0)
    found: dict[str, Tensor] = {}
    with TemporaryDirectory() as place:
        model, train = load_model(base, device("auto")), few(size, count)
        ctx = Context(0, model.device, Path(place), Path(place), "", quiet=True)
        prototypes = evenly(train, count)
        if compiled:
            model.denoiser.compile()
        for _ in range(repeat):
            for name, method in methods.items():
                peak, start = Peak(model.device), time.perf_counter()
                found[name] = sampled(method, model, train, prototypes, ctx)
                seconds[name].append(time.perf_counter() - start)
                peaks[name] = max(peaks[name], peak.compute_bytes)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians[ALONE] / s for name, s in medians.items()}
    rows = [
        (name, f"{s:.2f}", f"{count / s:.3g}", f"{ratios[name]:.2f}", f"{peaks[name] / 2**30:.2f}")
        for name, s in medians.items()
    ]
    print(tabulate(rows, ("sampling", "median s", "images/s", "times as fast", "peak GiB"), disable_numparse=True))
    where = {"device": device_name(model.device), "base": Path(base).name, "preset": preset, "size": size}
    where |= {"prototypes": count, "steps": ours.steps, "compiled": compiled, "peak_bytes": peaks}
    apart = float((found[ALONE] - found[OURS]).abs().max())
    figures = {"seconds": medians, "ratio": ratios[OURS], "largest_difference": apart}
    print(json.dumps({"benchmark": "dpd_sample"} | figures | where))


if __name__ == "__main__":
    main()
