"""MTT: distilled images on which a few steps of training lead where many on real images do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.config import param
from ddbench.context import Context, log
from ddbench.methods.pixels.adjoint import StudentStep, TrajectorySegment, trajectory_gradient
from ddbench.methods.pixels.experts import ExpertConfig, load_snapshot, train_expert
from ddbench.methods.pixels.loop import (
    NORMALISE,
    STORE_FLOAT,
    MatchingSetup,
    MomentumSGD,
    Normalise,
    PixelMethod,
    initial_pixels,
    start_names,
    to_distilled_set,
)
from ddbench.methods.pixels.network import Network, Weights, eager_fallback
from ddbench.methods.shared.checkpoint import optimise_with_checkpoints
from ddbench.methods.shared.device import in_batches
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet
from evaluators import dsa


@dataclass(frozen=True)
class Learned:
    """What algorithm 1 changes: the pixels S, the student's learning rate alpha, the labels y of S.

    labels: int64 (n,), or with `labels=teacher` probabilities (n, classes), anew at every iteration.
    """

    pixels: MomentumSGD
    alpha: MomentumSGD
    labels: Tensor


@dataclass(frozen=True)
class MTT(PixelMethod):
    """Matching training trajectories (Cazenavette et al., CVPR 2022, arXiv:2203.11932).

    Defaults are those published for 64 px and IPC 10 (Tiny ImageNet), except that a step takes all distilled images
    (published: 200 of 2000). The presets are named after what they were published for. For another number of images
    or another size take the nearest.
    """

    name: ClassVar[str] = "mtt"
    citation: ClassVar[str] = "Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022"
    version: ClassVar[int] = 3
    check_params: ClassVar[dict[str, Any]] = {
        "iterations": 2, "steps": 2, "expert_epochs": 1, "latest": 1, "experts": 1, "epochs": 2, "rate_rate": 1e-7,
    }  # fmt: skip

    iterations: int = param(5001, "segments of expert trajectories that are matched", "1 or more")
    steps: int = param(20, "N, the student's steps on the distilled images", "1 or more")
    expert_epochs: int = param(2, "M, the length of a segment", "epochs")
    latest: int = param(40, "T+, a segment starts before this epoch", "epochs")
    batch: int = param(0, "distilled images per student step, 0 for all")
    rate: float = param(1e4, "learning rate of the normalised pixels", "0 or more")
    step_rate: float = param(1e-2, "alpha, the student's initial learning rate; it is learned")
    rate_rate: float = param(1e-4, "learning rate of alpha", "0 or more")
    momentum: float = param(0.5, "momentum of the pixels' SGD and of alpha's", "0 or more")
    gradient: Literal["exact", "tesla"] = param(
        "exact",
        "exact: through all steps, at the memory of one (the adjoint); tesla: without second derivatives (Cui et al., "
        "ICML 2023, arXiv:2211.10586), at the same cost here",
    )
    labels: Literal["hard", "teacher"] = param(
        "hard",
        "labels of the distilled images: their classes (hard), or at every iteration the probabilities that the later "
        "expert gives them, stored as soft labels (teacher: TESLA's for ImageNet)",
        added_later=True,
    )
    experts: int = param(100, "networks trained on the real images", "1 or more")
    epochs: int = param(50, "epochs of every expert", "1 or more")
    expert_rate: float = param(1e-2, "learning rate of the experts")
    expert_batch: int = param(256, "real images per step of an expert", "1 or more")
    expert_images: int = param(0, "real images per epoch of an expert at most, 0 for all")
    augment: bool = param(True, "DSA's operations on every batch, the experts' too")
    init: Literal["real", "noise"] = param("real", "initial images: real ones, or noise from N(0, 1)")
    normalise: Normalise = param("data", NORMALISE)
    student: Literal["convnet"] = param("convnet", "architecture of experts and student")
    compiled: bool = param(False, "use torch.compile; eager is slower than the public code")
    bounded: bool = param(True, "clamp pixels to 0..255 after every iteration, else clip them once at the end")
    store_float: bool = param(False, STORE_FLOAT)
    grad_batch: int = param(50, "images whose gradients are taken at once, 0 for all; changes memory, not the images")

    def __post_init__(self) -> None:
        at_least(self, iterations=1, steps=1, expert_epochs=1, latest=1, experts=1, epochs=1, expert_batch=1)
        at_least(self, batch=0, expert_images=0, grad_batch=0, rate=0, rate_rate=0, momentum=0)
        if self.latest - 1 + self.expert_epochs > self.epochs:
            raise ValueError(
                f"latest {self.latest} and expert_epochs {self.expert_epochs} exceed the experts' {self.epochs} "
                f"epochs: latest may be at most {self.epochs - self.expert_epochs + 1}"
            )

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Optimise `ipc` images per class (algorithm 1). Raises FloatingPointError for a loss that is not finite."""
        setup = MatchingSetup.of(train, ctx, self.student, self.compiled, self.normalise)
        S = initial_pixels(setup.real, ipc, self.init, ctx)
        alpha = torch.tensor(self.step_rate, device=ctx.device)
        sgd = MomentumSGD(S, self.rate, self.momentum, setup.real.normalisation if self.bounded else None)
        alpha_sgd = MomentumSGD(alpha, self.rate_rate, self.momentum)
        config = ExpertConfig(
            self.student, self.epochs, self.expert_rate, self.expert_batch, self.augment, self.expert_images,
            self.normalise,
        )  # fmt: skip
        state = {"pixels": S, "pixels velocity": sgd.velocity}
        state |= {"step_rate": alpha, "step_rate velocity": alpha_sgd.velocity}
        y = train.class_labels(ipc).to(ctx.device)
        if self.labels == "teacher":
            y = torch.zeros(len(y), len(train.classes), device=ctx.device)
            state["labels"] = y
        learned = Learned(sgd, alpha_sgd, y)
        with eager_fallback():
            experts = [train_expert(index, config, setup) for index in range(self.experts)]
            loss = optimise_with_checkpoints(
                state, lambda i: self._iteration(setup, experts, learned, i), self.iterations, ctx
            ).loss
        if alpha <= 0:
            log.warning(
                "the learned step rate became %.2g and should be above 0: try a smaller rate_rate", float(alpha)
            )
        starts = start_names(setup.real, ipc, self.init, ctx)
        distilled = to_distilled_set(S, train, setup.real.normalisation, self.store_float, loss=loss, **starts)
        soft = y.cpu() if self.labels == "teacher" else None
        return replace(distilled, learning_rate=float(alpha), soft_labels=soft)

    def _iteration(self, setup: MatchingSetup, experts: Sequence[Path], learned: Learned, i: int) -> float:
        """Take step i of algorithm 1 on the pixels S, the learning rate alpha and their labels; return the loss."""
        ctx, S, alpha, y = setup.ctx, learned.pixels.values, learned.alpha.values, learned.labels
        numbers = ctx.generator("mtt", i)
        cycle, place = divmod(i, len(experts))  # every expert once, then again in another order
        order = torch.randperm(len(experts), generator=ctx.generator("mtt", "experts", cycle)).tolist()
        expert = experts[order[place]]
        t = int(torch.randint(self.latest, (), generator=numbers))
        start, target = (load_snapshot(expert, epoch, ctx.device) for epoch in (t, t + self.expert_epochs))
        if self.labels == "teacher":
            y.copy_(teacher_labels(setup.network, target, S.flatten(0, 1), self.grad_batch))
        steps = self._student_steps(y, numbers)

        # L = || theta_(t+N) - theta*_(t+M) ||^2 / || theta*_t - theta*_(t+M) ||^2, theta_t = theta*_t, and for n < N
        # theta_(t+n+1) = theta_(t+n) - alpha * gradient of the loss on A(b_(t+n)), b_(t+n) a batch of S
        segment, exact = TrajectorySegment(start, target, float(alpha)), self.gradient == "exact"
        loss, by_image, by_alpha = trajectory_gradient(
            setup.network, segment, S.flatten(0, 1), steps, exact, self.grad_batch
        )
        learned.pixels.step(by_image.view_as(S))
        learned.alpha.step(torch.tensor(by_alpha, device=ctx.device))
        return loss

    def _student_steps(self, y: Tensor, numbers: torch.Generator) -> list[StudentStep]:
        """Draw the N batches b_(t+n) and A: permutations of S, cut in batches that are taken from the end.

        y: labels of S, (n,) or (n, classes).
        """
        batches: list[Tensor] = []
        steps = []
        for _ in range(self.steps):
            if not batches:
                batches = list(torch.randperm(len(y), generator=numbers).split(self.batch or len(y)))
            index = batches.pop()
            draw = dsa.draw(len(index), numbers).to(y.device)
            augment = partial(dsa.apply, draw=draw) if self.augment else torch.clone
            index = index.to(y.device)
            steps.append(StudentStep(index, augment, y[index]))
        return steps


@torch.no_grad()
def teacher_labels(network: Network, theta: Weights, images: Tensor, at_once: int = 0) -> Tensor:
    """Return the probabilities (n, classes) that a network with weights theta gives normalised images (n, 3, h, w).

    TESLA's labels (Cui et al. 2023), as its public code has them: of the images without augmentation, not softened.
    at_once: images at once, 0 for all.
    """
    parts = in_batches(lambda rows: network.logits(theta, images[rows]), len(images), at_once or len(images))
    return torch.cat(list(parts)).softmax(1)
