"""The contract checker: a good method passes, and each way of breaking the contract is found by its own promise."""

import importlib
import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from ddbench.errors import UserError
from ddbench.testing import check_method, sample
from ddbench.types import DistilledSet


@dataclass(frozen=True)
class Good:
    name: ClassVar[str] = "good"
    version: ClassVar[int] = 1
    shift: int = 0

    def distill(self, train, ipc, ctx):
        draw = ctx.generator("good")
        chosen = [train.of_class(c)[torch.randperm(k, generator=draw)[:ipc]] for c, k in enumerate(train.counts())]
        index = torch.cat(chosen)
        return DistilledSet(train.images[index] + self.shift, train.labels[index], train.classes, train.readable)


@dataclass(frozen=True)
class Nameless(Good):
    name: ClassVar[str] = ""


@dataclass(frozen=True)
class Versionless(Good):
    version: ClassVar[str] = "1.0"


@dataclass(frozen=True)
class Needy(Good):
    must: str = field(kw_only=True)


@dataclass(frozen=True)
class Short(Good):
    def distill(self, train, ipc, ctx):
        return super().distill(train, 1, ctx)


@dataclass(frozen=True)
class Remembering(Good):
    calls: ClassVar[Iterator[int]] = itertools.count()

    def distill(self, train, ipc, ctx):
        made = super().distill(train, ipc, ctx)
        return replace(made, images=made.images + next(self.calls) % 256)


@dataclass(frozen=True)
class Scribbler(Good):
    def distill(self, train, ipc, ctx):
        train.images[3] = 0
        return super().distill(train, ipc, ctx)


@dataclass(frozen=True)
class Leaky(Good):
    def distill(self, train, ipc, ctx):
        self.draw()
        return super().distill(train, ipc, ctx)

    def draw(self):
        torch.rand(1)


@dataclass(frozen=True)
class LeakyNumpy(Leaky):
    def draw(self):
        np.random.rand()


@dataclass(frozen=True)
class LeakyPython(Leaky):
    def draw(self):
        random.random()


@dataclass(frozen=True)
class Floating(Good):
    def distill(self, train, ipc, ctx):
        made = super().distill(train, ipc, ctx)
        return replace(made, images=made.images.float())


@dataclass(frozen=True)
class Staged(Good):
    """Its stage draws from the run's seed, and says so in no key."""

    def distill(self, train, ipc, ctx):
        folder = ctx.stage("shift", lambda into: (into / "by").write_text(str(ctx.seed)))
        made = super().distill(train, ipc, ctx)
        return replace(made, images=made.images + int((folder / "by").read_text()))


def failures(cls):
    return {outcome.name: outcome.detail for outcome in check_method(cls) if not outcome.ok}


def test_a_good_method_passes():
    outcomes = check_method(Good)
    assert [outcome.name for outcome in outcomes if not outcome.ok] == []
    assert len(outcomes) == 10
    assert next(o for o in outcomes if o.name == "accepts another seed").detail == "it gives other images"


@pytest.mark.parametrize(
    ("cls", "promise", "said"),
    [
        (Nameless, "name and a version", "add name"),
        (Versionless, "name and a version", "add version"),
        (Needy, "from its defaults", "must"),
        (Short, "budget of 2 images", "every class needs 2 images"),
        (Remembering, "same images for the same seed", "images differ"),
        (Scribbler, "leaves the training images", "work on a copy"),
        (Leaky, "global random state", "torch's global generator"),
        (LeakyNumpy, "global random state", "numpy's global generator"),
        (LeakyPython, "global random state", "random's global generator"),
        (Staged, "whatever ran before", "put seed=ctx.seed into"),
        (Floating, "budget of 1 image", "images must be uint8"),
    ],
)
def test_each_promise_is_really_tested(cls, promise, said):
    found = {name: detail for name, detail in failures(cls).items() if promise in name}
    assert len(found) == 1
    assert said in next(iter(found.values()))


@pytest.mark.parametrize("draws", [False, True])
def test_an_import_that_draws_is_not_the_methods_doing(draws, tmp_path, monkeypatch):
    """As scikit-learn's does. A method that draws itself is found all the same."""
    (tmp_path / "drawing_module.py").write_text("import random\nrandom.random()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drawing_module", raising=False)

    @dataclass(frozen=True)
    class Importing(Good):
        def distill(self, train, ipc, ctx):
            importlib.import_module("drawing_module")
            if draws:
                random.random()
            return super().distill(train, ipc, ctx)

    assert any("global random state" in name for name in failures(Importing)) == draws


def test_a_class_that_is_no_frozen_dataclass():
    class Plain:
        name, version = "plain", 1
        distill = Good.distill
        shift = 0

    @dataclass
    class Warm(Plain):
        pass

    for cls in (Plain, Warm):
        assert "is a frozen dataclass" in failures(cls)


def test_a_method_may_ask_for_its_size_and_its_settings():
    seen = []

    @dataclass(frozen=True)
    class Picky(Good):
        check_size: ClassVar[int] = 16
        check_params: ClassVar[dict] = {"shift": 2}

        def distill(self, train, ipc, ctx):
            seen.append((tuple(train.images.shape), self.shift))
            return super().distill(train, ipc, ctx)

    assert failures(Picky) == {}
    assert set(seen) == {((24, 3, 16, 16), 2)}


def test_what_the_user_must_provide_is_no_broken_promise():
    @dataclass(frozen=True)
    class Hungry(Good):
        def distill(self, train, ipc, ctx):
            raise UserError("there is no base model")

    with pytest.raises(UserError, match="there is no base model"):
        check_method(Hungry)


def test_settings_that_do_not_exist_are_named():
    @dataclass(frozen=True)
    class Wrong(Good):
        check_params: ClassVar[dict] = {"shft": 2}

    assert "shft" in failures(Wrong)["can be made from its defaults"]


def test_the_images_are_real_scenes():
    images = sample(32)
    assert images.images.shape == (24, 3, 32, 32)
    assert images.counts() == (8, 8, 8)
    assert len({image.numpy().tobytes() for image in images.images}) == 24
