"""Several student seeds in one pass against one after another: whether sharing a pass would pay.

    python benchmarks/seeds.py [--student convnet] [--student resnet18] [--seeds 3] [--size 64] [--steps 20]

Both do the steps of quick@1 (forward, cross-entropy, backward, AdamW) on batches that are there already, each seed its
own; the two take turns. One pass is torch.func's: the weights of all seeds stacked, the network vmapped over them and
their batches. Prints a table (median seconds, ratio to one after another, the largest difference of a weight after the
steps), then one JSON line for each student. The judge trains one seed at a time: docs/protocols.md says why.
"""

from __future__ import annotations

import json
import statistics
import time

import click
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from ddbench.utils.distributed import device
from ddbench.utils.provenance import device_name
from evaluators.protocols import protocol
from evaluators.recipes import Recipe
from evaluators.students import Student, build

CLASSES = 10
Weights = dict[str, Tensor]


def optimizer(weights: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, recipe.lr, (recipe.momentum, recipe.beta2), weight_decay=recipe.weight_decay)


def apart(models: list[Student], images: Tensor, labels: Tensor, recipe: Recipe) -> list[Weights]:
    """One seed after another. images: (steps, seeds, batch, 3, s, s); labels: (steps, seeds, batch)."""
    for seed, model in enumerate(models):
        stepper = optimizer(list(model.parameters()), recipe)
        for pictures, truth in zip(images[:, seed], labels[:, seed], strict=True):
            stepper.zero_grad(set_to_none=True)
            F.cross_entropy(model(pictures), truth, label_smoothing=recipe.label_smoothing).backward()
            stepper.step()
    return [dict(model.named_parameters()) for model in models]


def together(models: list[Student], images: Tensor, labels: Tensor, recipe: Recipe) -> list[Weights]:
    """All seeds in one pass; the sum of their losses has each seed's own gradient."""
    weights, buffers = stack_module_state(models)
    skeleton = models[0]
    call = vmap(lambda w, b, x: functional_call(skeleton, (w, b), (x,)), in_dims=(0, 0, 0), randomness="different")
    stepper = optimizer(list(weights.values()), recipe)
    for pictures, truth in zip(images, labels, strict=True):
        stepper.zero_grad(set_to_none=True)
        logits = call(weights, buffers, pictures)
        each = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), label_smoothing=recipe.label_smoothing)
        (each * len(models)).backward()
        stepper.step()
    return [{name: w[seed] for name, w in weights.items()} for seed in range(len(models))]


def fresh(student: str, size: int, seeds: int, where: torch.device) -> list[Student]:
    found = [build(student, size, CLASSES, seed).to(where).train() for seed in range(seeds)]
    for model in found:
        for module in model.modules():  # vmap refuses buffers that count in place, and running statistics train nothing
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    return found


def timed(work, *given) -> tuple[float, list[Weights]]:
    start = time.perf_counter()
    found = work(*given)
    if given[1].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def measured(student: str, size: int, seeds: int, steps: int, repeat: int) -> dict:
    where, recipe = device("auto"), protocol("quick@1").recipe(student)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand((steps, seeds, recipe.batch, 3, size, size), generator=draw).to(where)
    labels = torch.randint(0, CLASSES, images.shape[:3], generator=draw).to(where)
    seconds: dict[str, list[float]] = {"apart": [], "together": []}
    for _ in range(repeat):
        one, first = timed(apart, fresh(student, size, seeds, where), images, labels, recipe)
        other, second = timed(together, fresh(student, size, seeds, where), images, labels, recipe)
        seconds["apart"].append(one)
        seconds["together"].append(other)
    off = max(float((a[k] - b[k]).detach().abs().max()) for a, b in zip(first, second, strict=True) for k in a)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {"seconds": medians, "ratio": medians["apart"] / medians["together"], "largest_difference": off}


@click.command(help=__doc__)
@click.option("--student", "students", multiple=True, default=("convnet", "resnet18"), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--repeat", default=3, show_default=True)
def main(students: tuple[str, ...], seeds: int, size: int, steps: int, repeat: int) -> None:
    rows, lines = [], []
    for student in students:
        found = measured(student, size, seeds, steps, repeat)
        for name, s in found["seconds"].items():
            times = found["seconds"]["apart"] / s
            rows.append((student, name, f"{s:.2f}", f"{times:.2f}", f"{found['largest_difference']:.1e}"))
        how = {"student": student, "seeds": seeds, "size": size, "steps": steps, "device": device_name(device("auto"))}
        lines.append(json.dumps({"benchmark": "seeds"} | found | how))
    print(tabulate(rows, ("student", "seeds", "median s", "times as fast", "weights differ"), disable_numparse=True))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
