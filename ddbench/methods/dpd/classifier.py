"""The latent classifier: it knows real latents, and judges candidates and clean estimates by them.

Network, rate, batch, epochs, dropout and the tenth held back are those of the DPD release. Ours: the number of steps
may be given, the warm-up multiplies the cosine instead of preceding it, and gradients are clipped to norm 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.context import generator_of, seed_of
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, checkpoints_beside, fit
from ddbench.utils.files import read_json, write_json

WIDTHS = (64, 128, 256)
BATCH = 128
EPOCHS = 200
HELD_BACK = 0.1
LOOKS = 40  # at the images held back: every fifth of 200 epochs


@dataclass(frozen=True)
class ClassifierConfig:
    """How a latent classifier is trained; all of it is in the stage's key.

    steps: of 128 latents, 0 for 200 epochs. flips: mirror latents at random. Right where a mirrored image has the
    mirrored latents, about so for AutoencoderKL; wrong for latents that hold the inside of a cell in channels.
    views: of every image so many ways it was turned or mirrored before it was encoded, one after the other.
    """

    steps: int
    flips: bool
    views: int = 1

    def key(self) -> dict[str, Any]:
        """JSON values for the stage's key."""
        return asdict(self)


class LatentClassifier(nn.Module):
    """Logits (n, classes) of scaled latents (n, channels, h, w): 3x3 stem, three stages of two residual blocks."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        stages = [_stage(before, after) for before, after in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)]
        self.body = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.body(z))


def _stage(before: int, after: int) -> nn.Module:
    """Two basic blocks; the first guided_and_conditional the grid where it widens."""
    from torchvision.models.resnet import BasicBlock  # here: a finished run must not pay for it

    stride = 1 if before == after else 2
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    return nn.Sequential(
        BasicBlock(before, after, stride, None if before == after else shortcut), BasicBlock(after, after)
    )


def hold_back(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held back: a tenth of each class, at least one where there are two."""
    kept, held = [], []
    for label in labels.unique().tolist():
        rows = torch.where(labels == label)[0]
        rows = rows[torch.randperm(len(rows), generator=generator_of(0, "hold back", label))]
        count = max(1, round(HELD_BACK * len(rows))) if len(rows) > 1 else 0
        held.append(rows[:count])
        kept.append(rows[count:])
    return torch.cat(kept), torch.cat(held)


def train_classifier(
    latents: Latents, classes: int, how: ClassifierConfig, device: torch.device,
    *, folder: Path, progress: Callable[[Iterable], Iterable],
) -> dict[str, Any]:  # fmt: skip
    """Write `classifier.safetensors`, the weights best on the images held back, and their accuracy, classifier.json.

    Returns the steps taken and that accuracy. No test image is involved. All draws follow from the step; checkpoints
    lie beside `folder`.
    """
    torch.manual_seed(seed_of(0, "classifier"))
    net = LatentClassifier(latents.mean.shape[1], classes).to(device)
    kept, held = hold_back(latents.labels[: len(latents.labels) // how.views])
    steps = how.steps or EPOCHS * max(1, len(kept) // BATCH)
    schedule = Schedule(steps, 1e-3, warmup=-(-steps // LOOKS), cosine=True, decay=1e-3, floor=1e-3)
    checkpoints = checkpoints_beside(folder)
    best = _Best(net, latents, held, every=-(-steps // LOOKS), steps=steps, checkpoints=checkpoints)
    found = fit(net, _loss(net.train(), latents, kept, how), schedule, progress, checkpoints, best.look)
    best.deliver(folder)
    return {"steps": steps, **asdict(found), **read_json(folder / "classifier.json")}


def load_classifier(folder: Path, device: torch.device) -> LatentClassifier:
    """What `train_classifier` wrote, frozen, in evaluation mode."""
    state = load_file(folder / "classifier.safetensors", device=str(device))
    net = LatentClassifier(state["body.0.weight"].shape[1], len(state["head.bias"])).to(device)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """f_y - max over j != y of f_j, (n,), of logits (n, classes): how surely each is of its class (the DPD release)."""
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf).max(1, keepdim=True).values)[:, 0]


@torch.no_grad()
def candidate_margins(classifier: nn.Module, z: Tensor, labels: Sequence[int]) -> Tensor:
    """Margins (n, candidates) of latents z (n * candidates, c, h, w), those of one prototype in a row, labels (n,)."""
    device = next(classifier.parameters()).device
    logits = torch.cat([classifier(part.to(device)).cpu() for part in z.split(512)])
    count = len(z) // len(labels)
    return margins(logits, torch.tensor(labels).repeat_interleave(count)).view(-1, count)


def _loss(net: nn.Module, latents: Latents, kept: Tensor, how: ClassifierConfig) -> Callable[[int], Tensor]:
    device = next(net.parameters()).device
    batch = min(BATCH, len(kept))
    per_epoch = len(kept) // batch

    def loss_at(step: int) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(kept), generator=generator_of(0, "classifier order", epoch))
        rows = kept[order[place * batch : (place + 1) * batch]]
        generator = generator_of(0, "classifier", step)
        if how.views > 1:
            rows = rows + torch.randint(how.views, rows.shape, generator=generator) * (len(latents.labels) // how.views)
        z = latents.draw(rows, generator)
        z = _mirrored(z, generator) if how.flips else z
        torch.manual_seed(seed_of(0, "classifier dropout", step))
        return F.cross_entropy(net(z.to(device)), latents.labels[rows].to(device))

    return loss_at


def _mirrored(z: Tensor, generator: torch.Generator) -> Tensor:
    """Each latent left to right, and top to bottom, with probability one half."""
    for axis in (2, 3):
        chosen = torch.rand(len(z), 1, 1, 1, generator=generator) < 0.5
        z = torch.where(chosen, z.flip(axis), z)
    return z


@dataclass
class _Best:
    """Looks at the images held back and keeps the weights that were best on them, on disk for a resumed run.

    Of equals the later ones, and with nothing held back the last.
    """

    net: nn.Module
    latents: Latents
    held: Tensor
    every: int
    steps: int
    checkpoints: Checkpoints

    @property
    def _weights(self) -> Path:
        return cast(Path, self.checkpoints.folder) / "best.safetensors"

    @property
    def _record(self) -> Path:
        return cast(Path, self.checkpoints.folder) / "best.json"

    def look(self, step: int) -> None:
        if (step + 1) % self.every and step + 1 < self.steps:
            return
        accuracy = self._accuracy()
        if self._record.is_file() and accuracy < read_json(self._record)["accuracy"]:
            return
        self._weights.parent.mkdir(parents=True, exist_ok=True)
        self._record.unlink(missing_ok=True)  # never a record of other weights
        save_file({k: v.cpu().contiguous() for k, v in self.net.state_dict().items()}, self._weights)
        write_json(self._record, {"accuracy": accuracy, "held_back": len(self.held), "best_step": step + 1})

    @torch.no_grad()
    def _accuracy(self) -> float:
        self.net.eval()
        device = next(self.net.parameters()).device
        right = 0
        for rows in self.held.split(512):
            found = self.net(self.latents.means(rows).to(device)).argmax(1).cpu()
            right += int((found == self.latents.labels[rows]).sum())
        self.net.train()
        return right / max(1, len(self.held))

    def deliver(self, folder: Path) -> None:
        """Copied, not moved: a kill before the stage is complete must find them again."""
        shutil.copyfile(self._weights, folder / "classifier.safetensors")
        shutil.copyfile(self._record, folder / "classifier.json")


def stored_classifier(stages: Stages, latents: Latents, how: ClassifierConfig) -> LatentClassifier:
    """Return the latent classifier, made once for every IPC and seed."""
    device, progress = stages.model.device, partial(stages.ctx.progress, desc="latent classifier")

    def make(folder: Path) -> dict[str, Any]:
        seen = stages.views(latents, how.views)  # a stage itself: all processes must come by
        if not stages.ctx.processes.is_lead:
            return {}
        return train_classifier(seen, len(stages.train.classes), how, device, folder=folder, progress=progress)

    folder = stages.shared.stage("classifier", make, together=True, vae=stages.model.vae_identity, **how.key())
    return load_classifier(folder, device)
