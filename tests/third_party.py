"""What a user brings, for the tests: images in class folders, a method in one file, a package with an entry point.

And a command as a user calls it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from ddbench.cli.main import cli
from ddbench.store import distilled_set
from ddbench.store.reader import Problem, read_runs
from ddbench.store.records import StoredResult


def run_command(*words: object, status: int = 0) -> Result:
    """Run a command of `ddbench` in this process; return its result, after a look at the exit status."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    return result


METHOD = '''
"""Somebody's method, in one file."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from ddbench.config import param
from ddbench.errors import UserError
from ddbench.types import DistilledSet


@dataclass(frozen=True)
class Pick:
    """Random real images."""

    name: ClassVar[str] = "pick"
    version: ClassVar[int] = 1
    shift: int = param(0, "added to every pixel", "grey levels")
    do: str = param("nothing", "what else happens")
    batch: int = param(4, "images, where do=oom")

    def distill(self, train, ipc, ctx):
        self._misbehave(train, ctx)
        draw = ctx.generator("pick")
        chosen = [train.of_class(c)[torch.randperm(k, generator=draw)[:ipc]] for c, k in enumerate(train.counts())]
        index = torch.cat(chosen)
        images = train.images[index] + self.shift
        return DistilledSet(images, train.labels[index], train.classes, train.readable, extras={"shift": self.shift})

    def _misbehave(self, train, ctx):
        if self.do == "fail" and not os.environ.get("PICK_WORKS"):
            raise RuntimeError("out of ideas")
        if self.do == "exit":
            raise SystemExit(3)
        if self.do == "full" and not os.environ.get("PICK_WORKS"):
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.do == "oom":
            torch.empty(self.batch, 1 << 58)
        if self.do == "diverge":
            (ctx.workdir / "state").write_text("the last that was good")
            raise FloatingPointError("the loss became nan at iteration 7: try a smaller learning rate")
        if self.do == "ask":
            raise UserError("there is no base model; get it from a shop")
        if self.do == "write":
            train.images[0] = 0
        if self.do == "hang" and os.environ.get("PICK_HANGS"):
            (ctx.workdir / "begun").touch()
            time.sleep(600)
'''


def few(steps: int) -> str:
    """A protocol's row of a few steps, as TOML: what a student learns is not the question."""
    row = {"optimizer": '"adamw"', "lr": 0.002, "weight_decay": 0.01, "batch": 8, "epochs": 1, "min_steps": steps}
    return "\n[recipes.convnet]\n" + "".join(f"{name} = {value}\n" for name, value in row.items())


def write_method(folder: Path, name: str = "pick.py") -> str:
    """Write the method's file; the words for --method."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(METHOD)
    return f"{folder / name}:Pick"


def write_package(site: Path, name: str = "pick") -> None:
    """Put the method where pip would put a package that declares it as the entry point `name`."""
    write_method(site, "pick_package.py")
    info = site / "pick_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pick-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ddbench.methods]\n{name} = pick_package:Pick\n")


def write_images(folder: Path, counts: dict[str, int], size: int = 8, seed: int = 0) -> Path:
    """Class folders of noise around a colour of the class's own: easy to learn, and no two images are the same."""
    rng = np.random.default_rng(seed)
    for place, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.normal(60 + 120 * place, 25, (size, size, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file but locks, by name."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if name.suffix != ".lock"}


def write_anew(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A run's distilled set, made anew with other images."""
    pictures = distilled_set.read(folder / "distilled")
    shutil.rmtree(folder / "distilled")
    (folder / "distilled").mkdir()
    distilled_set.write(folder / "distilled", replace(pictures, images=change(pictures.images)))


def results_and_problems(runs: Path) -> tuple[list[StoredResult], list[Problem]]:
    """Every result below `runs`, and every file that cannot be used."""
    scan = read_runs(runs)
    return scan.results, scan.problems
