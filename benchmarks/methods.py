"""Methods that optimise pixels: an iteration of ours against one of the official structure, written here.

    python benchmarks/methods.py [--part dc] [--part dm] [--part mtt] [--part train] [--size 64] [--steps 10] [--double]

dc     one matching step of DSA: gradients of real and distilled images of class after class, row-wise cosine distance
dm     one iteration of DM: real and distilled images of class after class through a module, eager
mtt    one iteration of MTT: the graph of all steps is kept and differentiated, eager
train  one training step on the distilled images: module, optimizer, a loader over the set, `.item()`

Same network (ConvNet), images, draws; 10 classes, IPC 10, 64 real images of a class. They take turns. Ours goes through
torch.compile (and once more without); the compiler's seconds are told apart. MTT of ours takes the gradients of 50
images at once. Prints a table (median seconds, ratio, peak memory of each, how far the gradients are apart), then one
JSON line for each part.

A ReLU that rounding puts on its other side moves a gradient by far more than rounding, in the official structure too
(its own gradient of pixels times 1 + 1e-7 is 3e-4 from that of the pixels). --double computes in float64, where none
is near enough: what is left is how far the formulas are apart.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import click
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ddbench.methods import dc, dm
from ddbench.methods.pixels import adjoint, experts
from ddbench.methods.pixels.adjoint import StudentStep, TrajectorySegment
from ddbench.methods.pixels.network import Network, backprop_through, eager_fallback, sgd_step, weight_gradient
from ddbench.utils.distributed import device
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import device_name
from evaluators import dsa
from evaluators.recipes import DSA
from evaluators.students import build

CLASSES, IPC, REAL = 10, 10, 64
USUAL, EAGER, OURS = "official structure", "ours, eager", "ours, compiled"
RATE, AT_ONCE = 0.01, 50
PARTS = ("dc", "dm", "mtt", "train")


@dataclass(frozen=True)
class Case:
    """What both work on. pixels (classes, ipc, 3, s, s) and real (classes, real, 3, s, s) are normalised."""

    pixels: Tensor
    real: Tensor
    seed: int = 0

    @property
    def classes(self) -> int:
        return len(self.pixels)

    @property
    def labels(self) -> Tensor:
        return torch.arange(self.classes, device=self.pixels.device).repeat_interleave(self.pixels.shape[1])

    def draw(self, n: int, i: int) -> dsa.DSANumbers:
        """The same augmentation for both."""
        return dsa.draw(n, torch.Generator().manual_seed(i)).to(self.pixels.device)


def module(case: Case) -> torch.nn.Module:
    return build("convnet", case.pixels.shape[-1], case.classes, case.seed).to(case.pixels.device)


def drawn_case(classes: int, ipc: int, real: int, size: int, where: torch.device) -> Case:
    """Noise as images."""
    draw = torch.Generator().manual_seed(0)
    return Case(*(torch.randn(classes, n, 3, size, size, generator=draw).to(where) for n in (ipc, real)))


def usual_dc(case: Case) -> Tensor:
    """Class after class through a module: its gradient on real images, on distilled ones with a graph, their distance.

    The distance is a loop over the module's parameters; one backward pass for the sum of the classes.
    """
    net, pixels = module(case).train(), case.pixels.clone().requires_grad_()
    weights, loss = list(net.parameters()), 0
    for label in range(case.classes):
        draw = case.draw(1, label)
        real, fake = dsa.apply(case.real[label], draw), dsa.apply(pixels[label], draw)
        truth = [torch.full((len(x),), label, device=x.device) for x in (real, fake)]
        goal = torch.autograd.grad(F.cross_entropy(net.head(net.body(real)), truth[0]), weights)
        own_loss = F.cross_entropy(net.head(net.body(fake)), truth[1])
        slopes = torch.autograd.grad(own_loss, weights, create_graph=True)
        for a, b in zip(slopes, goal, strict=True):
            if a.ndim > 1:
                a, b = a.flatten(1), b.detach().flatten(1)
                loss = loss + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    loss.backward()
    return pixels.grad


def our_dc(case: Case, network: Network) -> Tensor:
    weights, gradients = network.fresh(case.seed), []
    for label in range(case.classes):
        augment = partial(dsa.apply, draw=case.draw(1, label))
        real = augment(case.real[label])
        truth = [torch.full((len(x),), label, device=x.device) for x in (real, case.pixels[label])]
        goal = network.run(weight_gradient)(weights, real, truth[0])
        loss = partial(network.run(dc.dc_loss), weights, labels=truth[1], real_gradient=goal)
        gradients.append(backprop_through(augment, case.pixels[label], loss)[0])
    return torch.stack(gradients)


def usual_dm(case: Case) -> Tensor:
    """Class after class through a module; one backward pass for the sum."""
    net, pixels = module(case).requires_grad_(False), case.pixels.clone().requires_grad_()
    loss = 0
    for label in range(case.classes):
        draw = case.draw(1, label)
        real = net.body(dsa.apply(case.real[label], draw)).detach()
        fake = net.body(dsa.apply(pixels[label], draw))
        loss = loss + (real.mean(0) - fake.mean(0)).square().sum()
    loss.backward()
    return pixels.grad


def our_dm(case: Case, network: Network) -> Tensor:
    """All classes in one pass on a GPU, one after another on a CPU, as in `MatchingSetup.passes`."""
    weights, gradients = network.fresh(case.seed), []
    draws = [case.draw(1, label) for label in range(case.classes)]
    operations = torch.tensor([DSA.index(draw.operation) for draw in draws], device=case.pixels.device)
    numbers = torch.cat([draw.numbers for draw in draws])
    at_once = case.classes if case.pixels.is_cuda else 1
    for first in range(0, case.classes, at_once):
        some = slice(first, first + at_once)
        augment = partial(dsa.apply_groups, operations=operations[some], numbers=numbers[some])
        real, own = ([x.shape[1]] * at_once for x in (case.real, case.pixels))
        with torch.no_grad():
            seen = augment(case.real[some].flatten(0, 1), sizes=real)
            real_means = network.run(dm.mean_features)(weights, seen, real)
        loss = partial(network.run(dm.dm_loss), weights, real_means=real_means)
        gradients.append(backprop_through(partial(augment, sizes=own), case.pixels[some].flatten(0, 1), loss)[0])
    return torch.cat(gradients).view_as(case.pixels)


def segment(case: Case) -> TrajectorySegment:
    start = {name: w.detach() for name, w in module(case).named_parameters()}
    draw = torch.Generator().manual_seed(1)
    target = {name: w + 0.02 * torch.randn(w.shape, generator=draw).to(w) for name, w in start.items()}
    return TrajectorySegment(start, target, RATE)


def usual_mtt(case: Case, steps: int) -> Tensor:
    """The graph of all steps, kept until the backward pass through all of them."""
    net, expert = module(case), segment(case)
    pixels = case.pixels.flatten(0, 1).clone().requires_grad_()
    weights = {name: w.clone().requires_grad_() for name, w in expert.start.items()}
    for i in range(steps):
        seen = dsa.apply(pixels, case.draw(len(pixels), i))
        body = {n.removeprefix("body."): w for n, w in weights.items() if n.startswith("body.")}
        features = torch.func.functional_call(net.body, body, (seen,))
        logits = F.linear(features, weights["head.weight"], weights["head.bias"])
        slopes = torch.autograd.grad(F.cross_entropy(logits, case.labels), list(weights.values()), create_graph=True)
        weights = {name: w - RATE * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    off = sum((weights[name] - goal).square().sum() for name, goal in expert.target.items())
    loss = off / sum((expert.start[name] - goal).square().sum() for name, goal in expert.target.items())
    return torch.autograd.grad(loss, pixels)[0]


def our_mtt(case: Case, network: Network, steps: int) -> Tensor:
    pixels = case.pixels.flatten(0, 1)
    index = torch.arange(len(pixels), device=pixels.device)
    path = [StudentStep(index, partial(dsa.apply, draw=case.draw(len(pixels), i)), case.labels) for i in range(steps)]
    return adjoint.trajectory_gradient(network, segment(case), pixels, path, at_once=AT_ONCE)[1]


def usual_train(case: Case) -> Tensor:
    net, pixels = module(case).train(), case.pixels.flatten(0, 1)
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    for images, labels in DataLoader(TensorDataset(pixels, case.labels), batch_size=256, shuffle=False):
        seen = dsa.apply(images, case.draw(len(images), 0))
        loss = F.cross_entropy(net.head(net.body(seen)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return torch.cat([w.grad.flatten() for w in net.parameters()])


def our_train(case: Case, network: Network) -> Tensor:
    weights, pixels = network.fresh(case.seed), case.pixels.flatten(0, 1)
    seen = dsa.apply(pixels, case.draw(len(pixels), 0))
    gradient, _ = network.run(experts.loss_gradient)(weights, seen, case.labels)
    sgd_step(weights, gradient, RATE)
    return torch.cat([part.flatten() for part in gradient.values()])


def timed(work: Callable[[], Tensor], where: torch.device) -> tuple[float, int, Tensor]:
    """Seconds, peak bytes, what it gives."""
    peak, start = Peak(where), time.perf_counter()
    found = work()
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter() - start, peak.compute_bytes, found


def measured(loops: dict[str, Callable[[], Tensor]], where: torch.device, repeat: int) -> dict:
    first = {name: timed(loop, where)[0] for name, loop in loops.items()}  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    peaks, found = dict.fromkeys(loops, 0), {}
    for _ in range(repeat):
        for name, loop in loops.items():
            taken, peak, found[name] = timed(loop, where)
            seconds[name].append(taken)
            peaks[name] = max(peaks[name], peak)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    apart = {name: float((g - found[USUAL]).norm() / found[USUAL].norm()) for name, g in found.items()}
    compiling = max(0.0, first[OURS] - medians[OURS])
    return {"seconds": medians, "peak_bytes": peaks, "difference": apart, "compile_seconds": compiling}


def loops_of(part: str, case: Case, steps: int) -> dict[str, Callable[[], Tensor]]:
    size, where = case.pixels.shape[-1], case.pixels.device
    eager, compiled = (Network("convnet", size, case.classes, where, flag) for flag in (False, True))
    usual, ours, more = {
        "dc": (usual_dc, our_dc, ()),
        "dm": (usual_dm, our_dm, ()),
        "mtt": (usual_mtt, our_mtt, (steps,)),
        "train": (usual_train, our_train, ()),
    }[part]
    return {
        USUAL: partial(usual, case, *more),
        EAGER: partial(ours, case, eager, *more),
        OURS: partial(ours, case, compiled, *more),
    }


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, default=PARTS[1:], type=click.Choice(PARTS), show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--steps", default=10, show_default=True, help="of MTT")
@click.option("--repeat", default=3, show_default=True)
@click.option("--double", is_flag=True, help="In float64.")
def main(parts: tuple[str, ...], size: int, steps: int, repeat: int, double: bool) -> None:
    where = device("auto")
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    case = drawn_case(CLASSES, IPC, REAL, size, where)
    rows, lines = [], []
    for part in parts:
        with eager_fallback():
            found = measured(loops_of(part, case, steps), where, repeat)
        for name, s in found["seconds"].items():
            times, gib = found["seconds"][USUAL] / s, found["peak_bytes"][name] / 2**30
            first = f"{found['compile_seconds']:.0f}" if name == OURS else ""
            rows.append(
                (part, name, f"{s:.2f}", f"{times:.2f}", f"{gib:.2f}", f"{found['difference'][name]:.1e}", first)
            )
        how = {"part": part, "size": size, "steps": steps, "double": double, "device": device_name(where)}
        lines.append(json.dumps({"benchmark": "methods"} | found | how))
    heads = ("part", "loop", "median s", "times as fast", "peak GiB", "difference", "compile s")
    print(tabulate(rows, heads, disable_numparse=True))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
