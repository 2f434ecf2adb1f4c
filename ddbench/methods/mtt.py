"""MTT: distilled images on which a few steps of training lead where many on real images do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.context import Context, log
from ddbench.methods.pixels.adjoint import Piece, Step, matched
from ddbench.methods.pixels.experts import Training, snapshot, trajectory
from ddbench.methods.pixels.loop import Bench, descend, optimise, start, stored
from ddbench.methods.pixels.network import falling_back
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet
from evaluators import dsa


@dataclass(frozen=True)
class MTT:
    """Matching training trajectories (Cazenavette et al., CVPR 2022, arXiv:2203.11932).

    iterations: each matches one piece of one expert's trajectory. steps: of the student, on the distilled images.
    expert_epochs: the piece's length. latest: it begins at an epoch below this. batch: distilled images per step, 0 for
    all. rate: learning rate of the pixels (normalised, deviation 0.25). step_rate: the student's learning rate at
    first. rate_rate: the learning rate of that. momentum: of pixels and step rate. gradient: "exact", through all steps
    at the memory of one (the adjoint), or "tesla", which drops the second derivatives (Cui et al., ICML 2023,
    arXiv:2211.10586), though here it costs as much. experts: how many are trained on the real images. epochs: that
    each is trained for. expert_rate: their learning rate. expert_batch: real images in their batches. expert_images:
    that their epochs see at most, 0 for all. augment: DSA's operations on every batch, the experts' too. init: what the
    images are at first. student: the network's kind. compiled: through torch.compile; eager is slower than the public
    code. bounded: after every iteration the pixels are brought back into 0..255, what can be stored; else they are
    clipped at the end. grad_batch: images of a step whose gradients are taken at once, 0 for all; it changes memory,
    not the images.

    Defaults are those published for 64 px and IPC 10 (Tiny ImageNet), but that a step sees all distilled images (there
    200 of 2000); the presets are named after what they were published for. Another number of images or another size:
    take the nearest.
    """

    name: ClassVar[str] = "mtt"
    citation: ClassVar[str] = "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {
        "iterations": 2, "steps": 2, "expert_epochs": 1, "latest": 1, "experts": 1, "epochs": 2, "rate_rate": 1e-7,
    }  # fmt: skip

    iterations: int = 5001
    steps: int = 20
    expert_epochs: int = 2
    latest: int = 40
    batch: int = 0
    rate: float = 1e4
    step_rate: float = 1e-2
    rate_rate: float = 1e-4
    momentum: float = 0.5
    gradient: Literal["exact", "tesla"] = "exact"
    experts: int = 100
    epochs: int = 50
    expert_rate: float = 1e-2
    expert_batch: int = 256
    expert_images: int = 0
    augment: bool = True
    init: Literal["real", "noise"] = "real"
    student: Literal["convnet"] = "convnet"
    compiled: bool = False
    bounded: bool = True
    grad_batch: int = 50

    def __post_init__(self) -> None:
        at_least(self, iterations=1, steps=1, expert_epochs=1, latest=1, experts=1, epochs=1, expert_batch=1)
        at_least(self, batch=0, expert_images=0, grad_batch=0, rate=0, rate_rate=0, momentum=0)
        if self.latest - 1 + self.expert_epochs > self.epochs:
            raise ValueError(
                f"latest {self.latest} and expert_epochs {self.expert_epochs} reach beyond the experts' {self.epochs} "
                f"epochs: latest may be {self.epochs - self.expert_epochs + 1}"
            )

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, optimised. Raises FloatingPointError for a loss that is not finite."""
        bench = Bench.of(train, ctx, self.student, self.compiled)
        pixels = start(bench.real, ipc, self.init, ctx)  # too few images are said before the experts are trained
        training = Training(
            self.student, self.epochs, self.expert_rate, self.expert_batch, self.augment, self.expert_images
        )
        with falling_back():
            experts = [trajectory(index, training, bench) for index in range(self.experts)]
            state = {"pixels": pixels, "step_rate": torch.tensor(self.step_rate, device=ctx.device)}
            state |= {f"{name} velocity": torch.zeros_like(part) for name, part in state.items()}
            loss = optimise(state, lambda i: self._step(state, experts, bench, i), self.iterations, ctx)
        rate = float(state["step_rate"])
        if rate <= 0:
            log.warning("the learned step rate became %.2g, which climbs: try a smaller rate_rate", rate)
        return stored(pixels, train, loss=loss, step_rate=rate)

    def _step(self, state: dict[str, Tensor], experts: Sequence[Path], bench: Bench, i: int) -> float:
        """Match one piece; pixels and step rate move in place."""
        numbers = bench.ctx.generator("mtt", i)
        cycle, place = divmod(i, len(experts))
        chosen = torch.randperm(len(experts), generator=bench.ctx.generator("mtt", "experts", cycle))[place]
        first = int(torch.randint(self.latest, (), generator=numbers))
        begin, goal = (snapshot(experts[chosen], t, bench.ctx.device) for t in (first, first + self.expert_epochs))
        piece, pixels = Piece(begin, goal, float(state["step_rate"])), state["pixels"]
        steps = self._steps(len(pixels), pixels.shape[1], numbers, bench.ctx.device)
        exact = self.gradient == "exact"
        loss, gradient, by_rate = matched(bench.network, piece, pixels.flatten(0, 1), steps, exact, self.grad_batch)
        slopes = {"pixels": gradient.view_as(pixels), "step_rate": torch.tensor(by_rate, device=pixels.device)}
        for name, rate, bounded in (("pixels", self.rate, self.bounded), ("step_rate", self.rate_rate, False)):
            descend(state[name], slopes[name], state[f"{name} velocity"], rate, self.momentum, bounded)
        return loss

    def _steps(self, classes: int, ipc: int, numbers: torch.Generator, device: torch.device) -> list[Step]:
        """Batches of permutations of all images, cut from their ends; the augmentation's numbers for every image."""
        labels, left, found = torch.arange(classes).repeat_interleave(ipc), [], []
        for _ in range(self.steps):
            if not left:
                left = list(torch.randperm(len(labels), generator=numbers).split(self.batch or len(labels)))
            index = left.pop()
            draw = dsa.draw(len(index), numbers).to(device)
            look = partial(dsa.apply, draw=draw) if self.augment else torch.clone
            found.append(Step(index.to(device), look, labels[index].to(device)))
        return found
