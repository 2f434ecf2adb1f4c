"""`ddbench new`: write the first files of a method."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path

import click

from ddbench.cli.common import UserPath
from ddbench.errors import UserError

METHOD = '''\
"""{title}: what it does, in one line. (Authors, venue, year.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ddbench.config import param
from ddbench.context import Context
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class {title}:
    """The first line of `ddbench show`. Here: the real images nearest to a random mixture of their class."""

    name: ClassVar[str] = "{name}"
    version: ClassVar[int] = 1  # raise it when the numbers may change
    needs_ipc_images: ClassVar[bool] = True  # it chooses real images

    # hyper-parameters: default, meaning, unit or range; change one with `--set mixed=8`
    mixed: int = param(4, "images in the mixture", "1 or more")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return `ipc` images per class. Draws only from ctx.generator(...); does not change `train`."""
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
"""Test the contract of all methods, and the rule of {title}."""

import pytest
import torch
from {name} import {title}

from ddbench.context import Context
from ddbench.testing import check_method, sample


@pytest.mark.parametrize("outcome", check_method({title}), ids=lambda outcome: outcome.name)
def test_contract(outcome):
    assert outcome.ok, outcome.detail


def test_a_mixture_of_one_is_that_image(tmp_path):
    """A mixture of one image equals that image, so the method must choose it first."""
    train, ctx = sample(32), Context(0, torch.device("cpu"), tmp_path, tmp_path, "sample", quiet=True)
    made = {title}(mixed=1).distill(train, 1, ctx)
    for label, image in enumerate(made.images):
        rows = train.of_class(label)
        drawn = torch.randperm(len(rows), generator=ctx.generator("mixture", train.classes[label]))[0]
        assert torch.equal(image, train.images[rows[drawn]])
'''


@click.group()
def new() -> None:
    """Write the first files of a new method."""


@new.command()
@click.argument("name")
@click.option("--folder", type=UserPath(file_okay=False), default=Path(), help="Output folder.  [default: .]")
def method(name: str, folder: Path) -> None:
    """Write a method that runs, NAME.py, and its test, test_NAME.py.

    Existing files are not overwritten.

    \b
    Examples:
      ddbench new method nearest
      ddbench check nearest.py:Nearest
      ddbench run --method nearest.py:Nearest --dataset scenes --ipc 10 --size 32
      pytest test_nearest.py
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"{name!r} cannot name a Python module: use small letters, digits and _, begin with a letter")
    from ddbench.registry import names

    if name in names("methods") or find_spec(name):
        raise UserError(f"{name} is the name of an installed method or module: choose another name")
    title = "".join(part.capitalize() for part in name.split("_"))
    files = {folder / f"{name}.py": METHOD, folder / f"test_{name}.py": TEST}
    for path in files:
        if path.exists():
            raise UserError(f"{path} exists already: choose another name or another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text.format(name=name, title=title), encoding="utf-8")
        click.echo(f"wrote {path}")
    click.echo(f"next: ddbench check {folder / name}.py:{title}")
