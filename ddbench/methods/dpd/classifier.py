"""The latent classifier f, trained on real latents: it scores candidates, and clean estimates while fine-tuning.

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
from ddbench.methods.latent_diffusion.training import Schedule, checkpoints_beside, fit
from ddbench.utils.files import read_json, write_json

WIDTHS = (64, 128, 256)
BATCH = 128
EPOCHS = 200
HELD_BACK = 0.1
EVALUATIONS = 40  # on the images held back: every fifth of 200 epochs


@dataclass(frozen=True)
class ClassifierConfig:
    """The settings of a latent classifier, which the stage's key holds.

    steps: of 128 latents; 0 for 200 epochs.
    flips: mirror latents at random. A mirrored image has about the mirrored latents with AutoencoderKL, but not where
        channels hold the inside of a cell.
    views: number of ways in which every image was turned or mirrored before it was encoded.
    """

    steps: int
    flips: bool
    views: int = 1

    def key(self) -> dict[str, Any]:
        """Return JSON values for the stage's key."""
        return asdict(self)


class LatentClassifier(nn.Module):
    """Logits (n, classes) of scaled latents (n, channels, h, w): 3x3 stem, three stages of two residual blocks."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        stem = [nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
        stages = [residual_stage(before, after) for before, after in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)]
        self.body = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.body(z))


def residual_stage(before: int, after: int) -> nn.Module:
    """Build two basic blocks; the first halves the grid where it widens."""
    from torchvision.models.resnet import BasicBlock  # here: a finished run must not pay for it

    stride = 1 if before == after else 2
    # built in any case: its initial weights move the generator that those after it are drawn from
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
    first = BasicBlock(before, after, stride, None if before == after else shortcut)
    return nn.Sequential(first, BasicBlock(after, after))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return f_y - max over j != y of f_j, (n,), of logits (n, classes) (DPD's release)."""
    of_label = logits.gather(1, labels[:, None])
    return (of_label - logits.scatter(1, labels[:, None], -torch.inf).max(1, keepdim=True).values)[:, 0]


@torch.no_grad()
def candidate_margins(classifier: nn.Module, z: Tensor, labels: Sequence[int]) -> Tensor:
    """Return margins (n, candidates) of latents z (n * candidates, c, h, w), a prototype's in a row; labels (n,)."""
    device = next(classifier.parameters()).device
    logits = torch.cat([classifier(part.to(device)).cpu() for part in z.split(512)])
    count = len(z) // len(labels)
    return margins(logits, torch.tensor(labels).repeat_interleave(count)).view(-1, count)


def hold_back(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows to train on and those held back: a tenth of each class, at least one where there are two."""
    training, held_back = [], []
    for label in labels.unique().tolist():
        rows = torch.where(labels == label)[0]
        rows = rows[torch.randperm(len(rows), generator=generator_of(0, "hold back", label))]
        count = max(1, round(HELD_BACK * len(rows))) if len(rows) > 1 else 0
        held_back.append(rows[:count])
        training.append(rows[count:])
    return torch.cat(training), torch.cat(held_back)


def train_classifier(
    latents: Latents, classes: int, config: ClassifierConfig, device: torch.device,
    *, folder: Path, progress: Callable[[Iterable], Iterable],
) -> dict[str, Any]:  # fmt: skip
    """Write `classifier.safetensors`, the weights best on the images held back, and their accuracy, `classifier.json`.

    Returns the steps taken and that accuracy. No test image is involved. All draws follow from the step; checkpoints
    lie beside `folder`.
    """
    torch.manual_seed(seed_of(0, "classifier"))
    net = LatentClassifier(latents.mean.shape[1], classes).to(device)
    images = len(latents.labels) // config.views
    training, held_back = hold_back(latents.labels[:images])
    batch = min(BATCH, len(training))
    per_epoch = -(-len(training) // batch)  # the last batch of an epoch may be smaller

    def loss_at(step: int) -> Tensor:
        epoch, i = divmod(step, per_epoch)
        order = torch.randperm(len(training), generator=generator_of(0, "classifier order", epoch))
        rows = training[order[i * batch : (i + 1) * batch]]
        generator = generator_of(0, "classifier", step)
        if config.views > 1:
            rows = rows + torch.randint(config.views, rows.shape, generator=generator) * images
        z = latents.draw(rows, generator)
        z = flip_randomly(z, generator) if config.flips else z
        torch.manual_seed(seed_of(0, "classifier dropout", step))
        return F.cross_entropy(net(z.to(device)), latents.labels[rows].to(device))

    steps = config.steps or EPOCHS * per_epoch
    every = -(-steps // EVALUATIONS)
    checkpoints = checkpoints_beside(folder)
    best = BestWeights(net, latents, held_back, cast(Path, checkpoints.folder))

    def evaluate(step: int) -> None:
        if (step + 1) % every == 0 or step + 1 == steps:
            best.evaluate(step)

    schedule = Schedule(steps, 1e-3, warmup=every, cosine=True, decay=1e-3, floor=1e-3)
    result = fit(net.train(), loss_at, schedule, progress, checkpoints, evaluate)
    # copied, not moved: if this process is killed before the stage is complete, the next one needs them
    shutil.copyfile(best.folder / "best.safetensors", folder / "classifier.safetensors")
    shutil.copyfile(best.folder / "best.json", folder / "classifier.json")
    return {"steps": steps, **asdict(result), **read_json(folder / "classifier.json")}


def flip_randomly(z: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each latent left to right, and top to bottom, with probability one half each."""
    for axis in (2, 3):
        flipped = torch.rand(len(z), 1, 1, 1, generator=generator) < 0.5
        z = torch.where(flipped, z.flip(axis), z)
    return z


@dataclass
class BestWeights:
    """The weights that were best on the images held back, on disk beside the checkpoints for a resumed run.

    The later of equals; with nothing held back the last.
    """

    net: nn.Module
    latents: Latents
    held_back: Tensor
    folder: Path

    def evaluate(self, step: int) -> None:
        """Keep the weights after step `step` unless earlier ones were better."""
        accuracy = self.accuracy()
        record = self.folder / "best.json"
        if record.is_file() and accuracy < read_json(record)["accuracy"]:
            return
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)  # never a record of other weights
        weights = {k: v.cpu().contiguous() for k, v in self.net.state_dict().items()}
        save_file(weights, self.folder / "best.safetensors")
        write_json(record, {"accuracy": accuracy, "held_back": len(self.held_back), "best_step": step + 1})

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the share of the images held back that the network classifies right, by their posterior means."""
        self.net.eval()
        device = next(self.net.parameters()).device
        correct = 0
        for rows in self.held_back.split(512):
            predicted = self.net(self.latents.means(rows).to(device)).argmax(1).cpu()
            correct += int((predicted == self.latents.labels[rows]).sum())
        self.net.train()
        return correct / max(1, len(self.held_back))


def load_classifier(folder: Path, device: torch.device) -> LatentClassifier:
    """Load what `train_classifier` wrote, frozen, in evaluation mode."""
    state = load_file(folder / "classifier.safetensors", device=str(device))
    net = LatentClassifier(state["body.0.weight"].shape[1], len(state["head.bias"])).to(device)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def stored_classifier(stages: Stages, latents: Latents, config: ClassifierConfig) -> LatentClassifier:
    """Return the latent classifier, trained once for every IPC and seed."""
    device, progress = stages.model.device, partial(stages.ctx.progress, desc="latent classifier")

    def make(folder: Path) -> dict[str, Any]:
        views = latents if config.views == 1 else stages.latents(config.views)  # a stage: all processes must call it
        if not stages.ctx.processes.is_lead:
            return {}
        return train_classifier(views, len(stages.train.classes), config, device, folder=folder, progress=progress)

    folder = stages.shared.stage("classifier", make, together=True, vae=stages.model.vae_identity, **config.key())
    return load_classifier(folder, device)
