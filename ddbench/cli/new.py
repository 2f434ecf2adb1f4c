"""`ddbench new`: files to begin with."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path

import click

from ddbench.errors import UserError

METHOD = '''\
"""{title}: what it does, in a line. (Who, where, when.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ddbench.config import param
from ddbench.context import Context
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class {title}:
    """The first line of `ddbench show`. Here: the real images nearest a random mixture of their class."""

    name: ClassVar[str] = "{name}"
    version: ClassVar[int] = 1  # raise it when the numbers may change

    # hyper-parameters: default, meaning, unit or range; change one with `--set mixed=8`
    mixed: int = param(4, "images in the mixture", "1 or more")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class. Draws from ctx.generator(...), so that the seed decides; leaves `train` as it is."""
        chosen = [self._class(train, label, ipc, ctx) for label in range(len(train.classes))]
        rows = torch.cat(chosen)
        return DistilledSet(train.images[rows], train.labels[rows], train.classes, train.readable)

    def _class(self, train: ImageSet, label: int, ipc: int, ctx: Context) -> torch.Tensor:
        rows = train.of_class(label)
        order = torch.randperm(len(rows), generator=ctx.generator("mixture", train.classes[label]))
        images = train.images[rows].float()
        mixture = images[order[: self.mixed]].mean(0)
        return rows[(images - mixture).square().sum((1, 2, 3)).argsort()[:ipc]]
'''

TEST = '''\
"""The contract of a method, and what only {title} promises."""

import pytest
import torch
from {name} import {title}

from ddbench.context import Context
from ddbench.testing import check_method, sample


@pytest.mark.parametrize("outcome", check_method({title}), ids=lambda outcome: outcome.name)
def test_contract(outcome):
    assert outcome.ok, outcome.detail


def test_a_mixture_of_one_is_that_image(tmp_path):
    """Nothing is nearer to an image than itself: the one that is drawn for the mixture is the first that is chosen."""
    train, ctx = sample(32), Context(0, torch.device("cpu"), tmp_path, tmp_path, "sample", quiet=True)
    made = {title}(mixed=1).distill(train, 1, ctx)
    for label, image in enumerate(made.images):
        rows = train.of_class(label)
        drawn = torch.randperm(len(rows), generator=ctx.generator("mixture", train.classes[label]))[0]
        assert torch.equal(image, train.images[rows[drawn]])
'''


@click.group()
def new() -> None:
    """Write files to begin with: `ddbench new method`."""


@new.command()
@click.argument("name")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where.  [default: here]"
)
def method(name: str, folder: Path) -> None:
    """Write NAME.py, a method that runs, and test_NAME.py, its test; neither is overwritten.

    \b
    Example:
      ddbench new method nearest
      ddbench check nearest.py:Nearest
      ddbench run --method nearest.py:Nearest --dataset scenes --ipc 10 --size 32
      pytest test_nearest.py
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"{name!r} is not a name for a Python file: small letters, digits and _, a letter first")
    from ddbench.registry import names

    if name in names("methods") or find_spec(name):
        raise UserError(f"{name} is the name of a method or module that is installed: take another")
    title = "".join(part.capitalize() for part in name.split("_"))
    files = {folder / f"{name}.py": METHOD, folder / f"test_{name}.py": TEST}
    for path in files:
        if path.exists():
            raise UserError(f"{path} is there already; another name, or --folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text.format(name=name, title=title), encoding="utf-8")
        click.echo(f"wrote {path}")
    click.echo(f"next: ddbench check {folder / name}.py:{title}")
