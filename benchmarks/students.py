"""Training a student: the judge's loop against a loop in the style of DPD's release.

    python benchmarks/students.py [--student resnet18] [--student convnet] [--size 64] [--steps 40] [--compiled]

The usual loop keeps float32 images in plain order, crops and flips one image after another in Python, and asks for the
loss after every step. Both train the same network by the same row (dpd-scratch@1's numbers) on the same images; the two
take turns. Prints a table (median seconds, images per second, ratio to the usual loop, share of our time in which no
network computes, peak memory), then one JSON line for each student. With --compiled ours goes through torch.compile,
and the compiler's seconds (a first training less a later one) are told apart.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from itertools import islice

import click
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn

from ddbench.utils.distributed import device
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import device_name
from evaluators.protocols import protocol
from evaluators.recipes import Protocol, Recipe
from evaluators.students import build
from evaluators.train import batches, train_student

USUAL, OURS = "usual loop", "the judge (ours)"
CLASSES = 10


def row(student: str, batch: int, steps: int) -> Protocol:
    """dpd-scratch@1's numbers for any student, for a number of steps."""
    released = protocol("dpd-scratch@1").recipe("resnet18")
    recipe = dataclasses.replace(released, batch=batch, whole_epochs=False, epochs=1, min_steps=steps, max_steps=steps)
    return Protocol("benchmark", 1, {student: recipe}, "benchmarks/students.py")


def usual(images: Tensor, labels: Tensor, student: str, recipe: Recipe, where: torch.device) -> None:
    """Per-image augmentation in Python, float32 in plain order, `.item()` every step."""
    size, steps = images.shape[-1], recipe.min_steps
    model = build(student, size, CLASSES, 0).to(where).train()
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    drops = [round(m * steps) for m in recipe.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, recipe.gamma)
    pictures, labels = (images.float() / 255).to(where), labels.to(where)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < recipe.batch:
            order += torch.randperm(len(images)).tolist()
        index, order = order[: recipe.batch], order[recipe.batch :]
        batch = torch.stack([augmented(pictures[i], recipe) for i in index])
        loss = F.cross_entropy(model(batch), labels[index])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        loss.item()


def augmented(image: Tensor, recipe: Recipe) -> Tensor:
    """One image: a random crop resized to the whole, and flips."""
    size = image.shape[-1]
    for _ in range(recipe.augment.crop_tries):
        area = random.uniform(*recipe.augment.crop_area)
        ratio = math.exp(random.uniform(*map(math.log, recipe.augment.crop_ratio)))
        w, h = round(size * math.sqrt(area * ratio)), round(size * math.sqrt(area / ratio))
        if w <= size and h <= size:
            break
    else:
        w = h = size
    top, left = random.randint(0, size - h), random.randint(0, size - w)
    image = image[:, top : top + h, left : left + w]
    image = F.interpolate(image[None], (size, size), mode="bilinear", align_corners=False)[0]
    image = image.flip(2) if random.random() < recipe.augment.flip_x else image
    return image.flip(1) if random.random() < recipe.augment.flip_y else image


def timed(work: Callable[[], object], where: torch.device) -> tuple[float, int]:
    """Seconds and peak bytes."""
    peak, start = Peak(where), time.perf_counter()
    work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - start, peak.compute_bytes


def measured(student: str, images: Tensor, labels: Tensor, how: dict, repeat: int) -> dict:
    """Median seconds of both, the share of ours that makes batches, and the peaks. how: what train_student is given."""
    recipe, where = how["protocol"].recipe(student), how["device"]
    loops = {
        USUAL: lambda: usual(images, labels, student, recipe, where),
        OURS: lambda: train_student(images, labels, student=student, **how),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    peaks = dict.fromkeys(loops, 0)
    first = timed(loops[OURS], where)[0] if how["compiled"] else 0.0
    for _ in range(repeat):
        for name, loop in loops.items():
            taken, peak = timed(loop, where)
            seconds[name].append(taken)
            peaks[name] = max(peaks[name], peak)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    stream = batches(images.to(where), labels.to(where), recipe, 0)
    apart = min(timed(lambda: list(islice(stream, recipe.min_steps)), where)[0] for _ in range(repeat))
    ratio = medians[USUAL] / medians[OURS]
    shares = {"ratio": ratio, "share_of_batches": apart / medians[OURS]}
    compiling = max(0.0, first - medians[OURS])
    return {"seconds": medians, **shares, "compile_seconds": compiling, "peak_bytes": peaks}


@click.command(help=__doc__)
@click.option("--student", "students", multiple=True, default=("resnet18", "convnet"), show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--repeat", default=3, show_default=True)
@click.option("--compiled", is_flag=True, help="torch.compile in ours")
def main(students: tuple[str, ...], size: int, batch: int, steps: int, repeat: int, compiled: bool) -> None:
    where = device("auto")
    how = {"num_classes": CLASSES, "seed": 0, "device": where, "compiled": compiled}
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10 * CLASSES, 3, size, size), dtype=torch.uint8, generator=draw)
    labels = torch.arange(CLASSES).repeat_interleave(10)
    rows, lines = [], []
    for student in students:
        found = measured(student, images, labels, how | {"protocol": row(student, batch, steps)}, repeat)
        for name, s in found["seconds"].items():
            times = found["seconds"][USUAL] / s
            share = f"{100 * found['share_of_batches']:.1f} %" if name == OURS else ""
            gib = f"{found['peak_bytes'][name] / 2**30:.2f}"
            first = f"{found['compile_seconds']:.0f}" if name == OURS and compiled else ""
            rows.append((student, name, f"{s:.2f}", f"{batch * steps / s:.3g}", f"{times:.2f}", share, first, gib))
        where_ = {"student": student, "device": device_name(where), "size": size, "batch": batch, "steps": steps}
        where_ |= {"compiled": compiled}
        lines.append(json.dumps({"benchmark": "students"} | found | where_))
    heads = ("student", "loop", "median s", "images/s", "times as fast", "batches", "compile s", "peak GiB")
    print(tabulate(rows, heads, disable_numparse=True))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
