"""The state of an unfinished training on disk: one format for everything that trains. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.utils.files import Stopwatch, write_bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STATE = "state.safetensors"  # in a folder beside the stage that is being made
FORMER_KEYS = {"step": "done", "losses": "recent"}  # of files written before seconds were recorded


@dataclass(frozen=True)
class Progress:
    """step: steps done. seconds: time they took, killed processes included. losses: the last 100."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """loss: mean of the last 100 steps. earlier_seconds: time that killed processes spent on steps that count."""

    loss: float
    earlier_seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file with the newest state of a loop: its tensors by name, and its progress.

    path: the file. every: seconds between two writes. final: write after the last step too.
    """

    path: Path
    every: float = 60.0
    final: bool = True

    @classmethod
    def beside(cls, stage: Path) -> Checkpoint:
        """Return the checkpoint of a stage; it is removed when the stage is complete (`files.make_once`)."""
        return cls(stage.with_name(f"{stage.name}.checkpoints") / STATE, final=False)

    def save(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the file by these tensors and this progress, atomically."""
        import torch
        from safetensors.torch import save

        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content |= {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(progress).items()}
        write_bytes(self.path, save(content))

    def load(self, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Progress]:
        """Return the tensors on `device` and the progress; no tensors and step 0 if there is no file."""
        if not self.path.is_file():
            return {}, Progress()
        from safetensors.torch import load_file

        tensors = load_file(self.path, device=str(device))
        for name, former in FORMER_KEYS.items():
            if former in tensors:
                tensors[name] = tensors.pop(former)
        seconds = float(tensors.pop("seconds", 0.0))
        return tensors, Progress(int(tensors.pop("step")), seconds, tensors.pop("losses").tolist())


class StudentState:
    """The checkpoint of a student's training, an `evaluators.resume.TrainingState`.

    earlier_seconds: time that killed processes spent on steps that count.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self._watch, self._saved = checkpoint, Stopwatch(), 0.0
        self._tensors, progress = checkpoint.load()
        self._step, self.earlier_seconds = progress.step, progress.seconds

    def load(self) -> tuple[int, Mapping[str, Tensor]]:
        return self._step, self._tensors

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        if self._watch.seconds - self._saved >= self.checkpoint.every:
            self._saved = self._watch.seconds
            self.checkpoint.save(tensors, Progress(step, self.earlier_seconds + self._saved))

    def observe(self, network: nn.Module) -> None:
        """Look at the network, in eval mode, `recipe.tests` times in a training. A subclass saves what it records."""
