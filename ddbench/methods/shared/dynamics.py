"""Training dynamics of the real images, recorded once as a stage, and the base class of methods that rank by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.config import param
from ddbench.context import Context, generator_of
from ddbench.methods.shared.selection import drawn_rows, select
from ddbench.methods.shared.teachers import RECIPES, TRAINING, Training, soft_labels, train_on_real
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.checkpoint import Checkpoint, StudentState

# replaces the method in the stage's key, so that all methods share the stage; raise it when its content changes
SHARED = "dynamics@1"
RECORDS = "records"  # the tensor in the stage's file and in the checkpoint of a training


@dataclass(frozen=True)
class Dynamics:
    """Outputs of one network for its n training images, without augmentation, after each epoch of its training.

    correct: bool (epochs, n), True where the true class is the most probable.
    error: float32 (epochs, n), L2 norm of the probabilities minus the one-hot label, 0 to the root of 2.
    probability: float32 (epochs, n), probability of the true class.
    """

    correct: Tensor
    error: Tensor
    probability: Tensor


@dataclass(frozen=True)
class DynamicsMethod:
    """Settings and steps of every method that ranks real images by training dynamics (not a method by itself)."""

    version: ClassVar[int] = 1
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {"epochs": 3}

    student: Literal["convnet", "resnet18", "vit_tiny"] = param("convnet", "network that trains on the real images")
    epochs: int = param(
        20,
        "passes of this network over the training split; all methods that rank by training dynamics share it",
        "1 or more",
    )
    training: Training = param("adamw", f"training of the network: {TRAINING}")
    networks: int = param(1, "networks from other initial weights, whose mean score ranks the images", "1 or more")
    images: int = param(0, "images per class that are trained on and ranked, drawn at random; 0 for all")
    keep: Literal["highest", "lowest"] = param(
        "highest",
        "end of each class's ranking that is kept: the highest scores, the published rule, made for larger coresets "
        "(highest), or the lowest, the easiest images, which el2n and forgetting need where few are kept (lowest; "
        "Sorscher et al. 2022, arXiv:2206.14486)",
    )
    offset: float = param(
        0.0,
        "share of a class's images that is left out at that end, noise for example (Paul et al. 2021, section 4); less "
        "where too few would remain",
        "0 to 1",
    )

    def __post_init__(self) -> None:
        at_least(self, epochs=1, networks=1, images=0)
        shares(self, "offset")

    def score(self, dynamics: Dynamics) -> Tensor:
        """Return the score (n,) of every image by one network; higher is harder or less certain."""
        raise NotImplementedError

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return `ipc` images per class, in the order of the ranking. The run's seed changes nothing."""
        if 0 < self.images < ipc:
            raise ValueError(f"cannot choose {ipc} of {self.images} images per class: set images={ipc} or more, or 0")
        pool = draw_pool(train, self.images)
        scores = torch.stack([self.score(self._record(pool, ctx, i)) for i in range(self.networks)]).mean(0)
        return select(pool, ipc, lambda rows, _: rows[ranked(scores[rows], ipc, self.keep, self.offset)])

    def _record(self, pool: ImageSet, ctx: Context, number: int) -> Dynamics:
        """Return the dynamics of network `number`, recorded once for all runs and methods."""

        def make(folder: Path) -> dict[str, float]:
            recipe = replace(RECIPES[self.training], epochs=self.epochs, whole_epochs=True, tests=self.epochs)
            recorder = Recorder(Checkpoint.beside(folder), pool, ctx)
            train_on_real(pool, ctx, self.student, recipe, f"dynamics {number}", recorder)
            save_file({RECORDS: recorder.records}, folder / "dynamics.safetensors")
            return {"earlier_seconds": recorder.earlier_seconds}

        key: dict[str, Any] = {"student": self.student, "epochs": self.epochs, "training": self.training}
        key |= {"images": self.images, "network": number}
        folder = replace(ctx, method=SHARED).stage("dynamics", make, **key)
        correct, error, probability = load_file(folder / "dynamics.safetensors")[RECORDS].unbind(1)
        return Dynamics(correct.bool(), error, probability)


class Recorder(StudentState):
    """The state of a training, with the outputs for the training images after each epoch so far.

    records: float32 (epochs, 3, n); the rows are those of `outputs_of`. They are part of the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, train: ImageSet, ctx: Context) -> None:
        super().__init__(checkpoint)
        self._train, self._ctx = train, ctx
        self.records = self.load()[1].get(RECORDS, torch.zeros(0, 3, len(train.labels)))

    def observe(self, network: nn.Module) -> None:
        outputs = outputs_of(soft_labels(network, self._train.images, self._ctx), self._train.labels)
        self.records = torch.cat([self.records, outputs[None]])

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        super().save(step, {**tensors, RECORDS: self.records})


def outputs_of(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return correctness (0 or 1), error and probability of the true class, float32 (3, n); see `Dynamics`.

    error: || p(x) - y ||_2 with y the one-hot label (Paul et al. 2021, definition 2.3).
    probabilities: float32 (n, classes). labels: int64 (n,).
    """
    y = F.one_hot(labels, probabilities.shape[1])
    correct = (probabilities.argmax(1) == labels).float()
    return torch.stack([correct, (probabilities - y).norm(dim=1), (probabilities * y).sum(1)])


def draw_pool(train: ImageSet, count: int) -> ImageSet:
    """Return `count` random images of each class, all of a smaller one; `train` itself for 0. Always the same ones."""
    if count == 0:
        return train
    return train.rows(drawn_rows(train.labels, count, lambda label: generator_of(0, "dynamics", train.classes[label])))


def ranked(scores: Tensor, count: int, keep: str, offset: float) -> Tensor:
    """Return the indices (count,) of the scores (n,) at one end of their ranking, from that end on.

    keep: "highest" or "lowest". offset: share of the n that is skipped, but no more than n - count. Of equal scores the
    first comes first at both ends.
    """
    order = scores.argsort(descending=keep == "highest", stable=True)
    start = min(int(offset * len(scores)), len(scores) - count)
    return order[start : start + count]
