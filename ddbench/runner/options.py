"""Options that all commands and the Python API share: folders, device, resizing; their defaults. No torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError

if TYPE_CHECKING:
    from ddbench.runner.plan import ExecutionSettings

SMALLEST = 8  # px, side of an image that a run takes


class Default(NamedTuple):
    """The value of an option that is not given: that of its environment variable, else a fixed one."""

    variable: str
    value: str | None

    def read(self) -> str | None:
        """Return the value; an empty variable counts as none."""
        return os.environ.get(self.variable) or self.value


DEFAULTS = {
    "runs": Default("DDBENCH_RUNS", "runs"),
    "data": Default("DDBENCH_DATA", None),
    "shared": Default("DDBENCH_SHARED", "shared"),
    "device": Default("DDBENCH_DEVICE", "auto"),
}


@dataclass(frozen=True)
class GlobalOptions:
    """The options before a command, or of a call.

    runs: folder of runs and results.
    data: folder of raw datasets; None for none.
    shared: folder of packs and stages.
    device: "auto", "cpu", "cuda" or "cuda:1"; several with commas for jobs that share them, "cuda:0,cuda:1".
    quiet: no progress on standard error.
    resize: the filter that resizes images.
    gpu_memory: GiB of a GPU that each process may hold; None for all.
    """

    runs: Path
    data: Path | None
    shared: Path
    device: str
    quiet: bool
    resize: Literal["lanczos", "bilinear"] = "lanczos"
    gpu_memory: float | None = None

    @classmethod
    def of_call(
        cls, quiet: bool, resize: Literal["lanczos", "bilinear"], **values: str | os.PathLike[str] | None
    ) -> Self:
        """Return the options of a call; `runs`, `data`, `shared` and `device` that are None get their defaults.

        Raises UserError for a device or a filter that does not exist.
        """
        if resize not in ("lanczos", "bilinear"):
            raise UserError(f"resize = {resize!r} is not one of lanczos, bilinear")
        texts = {name: values[name] if values.get(name) is not None else of.read() for name, of in DEFAULTS.items()}
        device = check_device(str(texts.pop("device")))
        folders: dict[str, Any] = {name: text and Path(text).expanduser() for name, text in texts.items()}
        return cls(**folders, device=device, quiet=quiet, resize=resize)

    def absolute(self) -> Self:
        """Return the same with absolute folders: they mean the same in every process."""
        data = self.data.absolute() if self.data else None
        return replace(self, runs=self.runs.absolute(), shared=self.shared.absolute(), data=data)

    @property
    def data_paths(self) -> DataPaths:
        """The folders of the data."""
        return DataPaths(self.data, self.shared, self.quiet, self.resize)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that jobs share."""
        return tuple(self.device.split(","))

    @property
    def settings(self) -> ExecutionSettings:
        """Folders and device of runs."""
        from ddbench.runner.plan import ExecutionSettings  # not for `--help`

        return ExecutionSettings(self.runs, self.data_paths, self.device, self.quiet, gpu_memory=self.gpu_memory)


def check_device(name: str) -> str:
    """Return the names of a device, or of several with commas. Raises UserError for any text that cannot be one."""
    for one in name.split(","):
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", one):
            raise UserError(f"{one!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    return name
