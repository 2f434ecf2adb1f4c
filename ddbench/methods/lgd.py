"""LGD: a set that grows in stages, each guided to images that a student of the set so far has yet to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.config import param
from ddbench.context import Context
from ddbench.methods.igd import IGD, Guidance
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import class_prompts
from ddbench.methods.latent_diffusion.rounds import SamplingBatch
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents
from ddbench.methods.shared.device import in_batches
from ddbench.methods.shared.surrogates import (
    SHARED,
    WEIGHTS,
    Surrogate,
    cross_entropy,
    skeleton,
    train_surrogate,
)
from ddbench.methods.shared.validation import at_least
from ddbench.utils.files import digest

FILE = "latents.safetensors"


@dataclass(frozen=True)
class LGD(IGD):
    """Learnability-guided diffusion (Chan-Santiago and Shah, CVPR 2026, arXiv:2604.00519).

    Stage 1 is IGD's set of `stage_images` per class. Before stage i a student theta_{i-1} is trained on all images so
    far. Guided steps then raise the learnability S(x, y) = l(theta_{i-1}; x, y) - omega l(theta*; x, y), l the
    cross-entropy and theta* a network of all real images: hard for this student, not for one that knows the data. Of
    `candidates` images for each place the one of the largest S stays. Deviation guidance is IGD's, with another weight.
    The first k images of a class are its set at IPC k.

    Neither text nor code was at hand: the formulas are those of others' notes. They add lambda rho_t dS/dx_t to eps.
    Here it is added to the step, with IGD's rho_t, as IGD's influence is: S then grows (tested), and lambda = 15 is of
    the size of IGD's k.
    """

    name: ClassVar[str] = "lgd"
    citation: ClassVar[str] = (
        "Chan-Santiago and Shah, Learnability-Guided Diffusion for Dataset Distillation, CVPR 2026"
    )
    check_params: ClassVar[dict[str, Any]] = {
        **IGD.check_params, "stage_images": 1, "candidates": 2, "stage_epochs": 2,
    }  # fmt: skip
    moving: ClassVar[tuple[str, ...]] = ("influence", "deviation", "learnability", "stage_deviation")
    windows: ClassVar[tuple[tuple[str, str], ...]] = (*IGD.windows, ("stage_from", "stage_until"))

    stage_images: int = param(10, "images per class that a stage adds", "1 or more")
    learnability: float = param(15.0, "lambda: weight of learnability's guidance after the first stage, 0 for none")
    omega: float = param(0.5, "weight of the cross-entropy of the network of all real images")
    stage_deviation: float = param(50.0, "gamma: weight of deviation guidance after the first stage, 0 for none")
    stage_from: float = param(
        0.08, "share of the steps before the first that is guided after the first stage", "0 to 1"
    )
    stage_until: float = param(0.8, "share of the steps after which none is guided, after the first stage", "0 to 1")
    candidates: int = param(3, "kappa: images sampled for each place after the first stage", "1 or more")
    stage_epochs: int = param(300, "passes of the student over the images so far", "1 or more")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, stage_images=1, learnability=0, omega=0, stage_deviation=0, candidates=1, stage_epochs=1)

    def _starts_by_tuned(self, stages: Stages, latents: Latents, starts: StartLatents, weights: str) -> StartLatents:
        """Return the starts with what the stages need as their targets."""
        latent = torch.zeros(latents.mean.shape[1:])
        return replace(starts, targets=Increments(stages, starts.targets, latent, weights))

    def _guidance(self, batch: SamplingBatch) -> Guidance:
        S = batch.targets
        if not isinstance(S, Learnability):
            return super()._guidance(batch)
        dG_dx0 = S.descent(batch) if self.learnability else None  # G = -S
        return Guidance(dG_dx0, self.learnability, self.stage_deviation, self.stage_from, self.stage_until)

    def sample_latents(self, model: LatentModel, starts: StartLatents, ctx: Context) -> tuple[Tensor, int]:
        """Return the latents of all stages, class after class. A finished stage is kept, for larger IPCs too."""
        increments: Increments = starts.targets
        classes = len(increments.stages.train.classes)
        ipc, so_far = len(starts.labels) // classes, torch.empty(classes, 0, *increments.latent.shape)
        others = ("batch", "pool", "polish")  # settings of these names change no stage
        settings = digest({name: value for name, value in asdict(self).items() if not name.startswith(others)})
        for first in range(0, ipc, self.stage_images):
            key: dict[str, Any] = {"base": model.identity, "weights": increments.weights, "settings": settings}
            key |= {"seed": ctx.seed, "first": first}
            stage, more = replace(increments, so_far=so_far, key=key), min(self.stage_images, ipc - first)
            folder = ctx.stage("increment", partial(self._make_stage, model, stage, more, ctx), **key, more=more)
            so_far = torch.cat([so_far, load_file(folder / FILE)["latents"]], 1)
        return so_far.flatten(0, 1), 0

    def _make_stage(self, model: LatentModel, stage: Increments, more: int, ctx: Context, folder: Path) -> None:
        """Save the latents that a stage adds, (classes, more, c, h, w)."""
        sample_stage = self._next_stage if stage.so_far.shape[1] else self._first_stage
        save_file({"latents": sample_stage(model, stage, more, ctx)}, folder / FILE)

    def _first_stage(self, model: LatentModel, stage: Increments, more: int, ctx: Context) -> Tensor:
        """Return the first `more` images of each class of IGD's set of `stage_images`."""
        starts = self._starts_of(stage, more)
        names = [(label * self.stage_images + i % more,) for i, label in enumerate(starts.labels)]
        z, _ = super().sample_latents(model, replace(starts, names=names, targets=stage.surrogate), ctx)
        return z.unflatten(0, (-1, more))

    def _next_stage(self, model: LatentModel, stage: Increments, more: int, ctx: Context) -> Tensor:
        """Return `more` images of each class, each of `candidates` the one of the largest learnability."""
        S, kappa, done = self._learnability(model, stage, ctx), self.candidates, stage.so_far.shape[1]
        starts = self._starts_of(stage, more * kappa)
        names = [(label, done + i % (more * kappa) // kappa, i % kappa) for i, label in enumerate(starts.labels)]
        sample_batch = self._batch_sampler(model, replace(starts, names=names, targets=S), ctx)
        rows, memory = torch.arange(len(names)).view(-1, more, kappa), stage.so_far
        for j in ctx.progress(range(more), desc=f"images {done + 1} to {done + more}"):
            images = rows[:, j].flatten().tolist()
            y = [starts.labels[i] for i in images]
            finished = [list(memory[label]) for label in y]
            compute = lambda part, images=images, past=finished: sample_batch(images[part], past[part])  # noqa: E731
            z = torch.stack([latent for pairs in in_batches(compute, len(images), self.batch) for latent, _ in pairs])
            best = S.of_latents(model, z, torch.tensor(y), self.batch).view(-1, kappa).argmax(1)
            chosen = z.unflatten(0, (-1, kappa))[torch.arange(len(best)), best]
            memory = torch.cat([memory, chosen[:, None]], 1)
        return memory[:, done:].contiguous()

    def _starts_of(self, stage: Increments, count: int) -> StartLatents:
        """Return starts in pure noise of `count` images per class, without names and targets."""
        train = stage.stages.train
        prompts = class_prompts(self.prompt, train.readable, train.class_labels(count))
        return StartLatents(lambda i, generator: torch.zeros_like(stage.latent), prompts, ())

    def _learnability(self, model: LatentModel, stage: Increments, ctx: Context) -> Learnability:
        """Return S. theta_{i-1}, of the images so far, and theta*, of the real ones, are stages of their own."""
        train, shared, of_real = stage.stages.train, replace(ctx, method=SHARED), self._surrogate_config()
        progress = partial(ctx.progress, desc="decoding")
        images = model.decode(stage.so_far.flatten(0, 1), self.batch, progress, train.images.shape[-1])
        of_set = replace(of_real, epochs=self.stage_epochs, images=0)
        theta = last_weights(train_surrogate(train.distilled(images), shared, of_set, 1, so_far=stage.key))
        theta_star = last_weights(train_surrogate(train, shared, of_real))
        network = skeleton(self.surrogate, train, ctx)
        return Learnability(
            network, train.images.shape[-1], theta.to(ctx.device), theta_star.to(ctx.device), self.omega
        )


@dataclass(frozen=True)
class Increments:
    """The base, the real images and the latents so far, for one stage of `LGD`.

    stages: of the base and the real images. surrogate: of influence guidance, or None. latent: zeros (c, h, w).
    weights: name of the stage of the fine-tuned weights.
    so_far: latents of the earlier stages, (classes, m, c, h, w).
    key: what the latents so far depend on.
    """

    stages: Stages
    surrogate: Surrogate | None
    latent: Tensor
    weights: str
    so_far: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    key: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Learnability:
    """S(x, y) = l(theta; x, y) - omega l(theta_star; x, y), l the cross-entropy of `network`; weights are (p,).

    network: for images of `size` px.
    """

    network: nn.Module
    size: int
    theta: Tensor
    theta_star: Tensor
    omega: float

    def __call__(self, images: Tensor, y: Tensor) -> Tensor:
        """Return S (n,) of float images in 0..1, (n, 3, h, w)."""
        of_student, of_reference = (cross_entropy(self.network, w, images, y) for w in (self.theta, self.theta_star))
        return of_student - self.omega * of_reference

    def descent(self, batch: SamplingBatch) -> Callable[[Tensor], Tensor]:
        """Return x0_hat -> -dS/dx0_hat, both (n, c, h, w), for the images of a batch."""
        y = batch.labels.to(batch.starts.device)

        def dG_dx0(x0_hat: Tensor) -> Tensor:
            with torch.enable_grad():
                z = x0_hat.detach().requires_grad_()
                S = self((batch.model.pixels(z, self.size) + 1) / 2, y)
                return -torch.autograd.grad(S.sum(), z)[0]

        return dG_dx0

    @torch.no_grad()
    def of_latents(self, model: LatentModel, z: Tensor, y: Tensor, batch: int) -> Tensor:
        """Return S (n,) of scaled latents z (n, c, h, w)."""
        device = self.theta.device

        def compute(part: slice) -> Tensor:
            images = (model.pixels(z[part].to(device), self.size) + 1) / 2
            return self(images, y[part].to(device)).cpu()

        return torch.cat(list(in_batches(compute, len(z), batch)))


def last_weights(path: Path) -> Tensor:
    """Return the last snapshot of a surrogate's file, float32 (p,)."""
    with safe_open(path, "pt") as file:
        return file.get_slice(WEIGHTS)[-1]
