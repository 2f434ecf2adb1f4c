"""Published rows never change; the package stands alone."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from evaluators.protocols import PROTOCOLS, STUDENTS, Augment, Protocol, Recipe, protocol

RECIPE = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=10, epochs=3, min_steps=20, max_steps=50)
MINE = Protocol("mine", 1, {"convnet": RECIPE}, source="this test")


@pytest.mark.parametrize(("images", "steps"), [(1, 20), (60, 20), (67, 21), (101, 31), (100_000, 50)])
def test_steps_grow_with_the_set_within_bounds(images, steps):
    assert RECIPE.steps(images) == steps


def test_a_name_without_version_is_the_newest():
    assert protocol("quick") is protocol("quick@1") is PROTOCOLS["quick@1"]


@pytest.mark.parametrize("name", ["quick@7", "quik", "dpd@1", ""])
def test_an_unknown_protocol_lists_all(name):
    with pytest.raises(ValueError, match="Known: quick@1"):
        protocol(name)


def test_every_named_protocol_serves_every_student():
    for title, row in PROTOCOLS.items():
        assert row.title == title
        assert tuple(row.recipes) == STUDENTS
        assert row.init == "scratch"


def test_rows_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        protocol("quick").version = 2
    with pytest.raises(TypeError):
        protocol("quick").recipes["convnet"] = RECIPE


@pytest.mark.parametrize(
    "other",
    [
        replace(MINE, name="yours"),
        replace(MINE, version=2),
        replace(MINE, init="imagenet"),
        replace(MINE, recipes={"convnet": replace(RECIPE, lr=0.2)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(cutout=0.1))}),
    ],
)
def test_identity_covers_what_moves_a_number(other):
    assert other.identity("convnet") != MINE.identity("convnet")


def test_identity_ignores_what_does_not():
    assert replace(MINE, source="elsewhere").identity("convnet") == MINE.identity("convnet")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_listing_protocols_needs_no_torch():
    done = run("import sys, evaluators.protocols; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


ALONE = """
import sys
sys.modules["ddbench"] = None
import torch
from evaluators.protocols import Protocol, Recipe
from evaluators.train import train_student
from evaluators.accuracy import evaluate
recipe = Recipe("adamw", lr=1e-3, weight_decay=0.0, batch=4, epochs=1, min_steps=2, max_steps=2)
images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
alone = Protocol("alone", 1, {"convnet": recipe}, source="this test")
model = train_student(images, labels, student="convnet", protocol=alone, num_classes=2, seed=0, device="cpu")
assert evaluate(model, images, labels, num_classes=2, device="cpu").overall == 0.5
"""


def test_the_judge_works_without_ddbench():
    done = run(ALONE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("title", "student", "identity"),
    [
        ("quick@1", "convnet", "f1526f301e67209c89edb6d67cd5c577b54d96f527f589bd71ba74d60fdd074a"),
        ("quick@1", "resnet18", "fef331e3c9db032d10dc09dda168646250c62cfccab34308a7189c4be831fa2d"),
        ("quick@1", "vit_tiny", "a5eef90b815d48d3d538c52a284da3dc233c057129d410f363c19f79f5de60d1"),
    ],
)
def test_published_rows_are_pinned(title, student, identity):
    """A failure here means: put the number back, and add a version."""
    assert protocol(title).identity(student) == identity


def test_every_published_row_is_pinned():
    pins = test_published_rows_are_pinned.pytestmark[0].args[1]
    assert {(title, student) for title, student, _ in pins} == {(t, s) for t in PROTOCOLS for s in STUDENTS}


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="sgd or adamw"):
        replace(protocol("quick").recipe("convnet"), optimizer="adam")
