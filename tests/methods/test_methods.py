"""Training sets at the edge of what there is: one image per class, one class, grey images; every method."""

from __future__ import annotations

import pytest
import torch

from ddbench import registry
from ddbench.registry import load_method
from ddbench.types import ImageSet

pytestmark = pytest.mark.slow
SAMPLED = {"diffusion", "minimax", "d4m", "d3hr", "dmgd", "mgd3", "vlcp", "dpd"}
NAMES = sorted(set(registry.names("methods")) - {"full"})


def grey(classes, each):
    """Noise without colour, 32 px, another brightness for each class."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 128, (classes * each, 1, 32, 32), generator=numbers, dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(each)
    words = tuple(f"class {label}" for label in range(classes))
    return ImageSet((images + 30 * labels.view(-1, 1, 1, 1).byte()).repeat(1, 3, 1, 1), labels, words, words)


def distilled(name, train, ipc, context):
    cls = load_method(name)
    return cls(**getattr(cls, "check_params", {})).distill(train, ipc, context)


@pytest.mark.parametrize("name", NAMES)
def test_one_grey_image_per_class(name, context_of):
    made = distilled(name, grey(3, 1), 1, context_of())
    made.check(1)
    assert len(made.images) == 3


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_distilled_or_refused(name, context_of):
    """Whatever trains or asks a student cannot: there is nothing to tell apart."""
    if name in SAMPLED | {"random"}:
        distilled(name, grey(1, 4), 1, context_of()).check(1)
    else:
        with pytest.raises(ValueError, match="students need two classes, not 1"):
            distilled(name, grey(1, 4), 1, context_of())


@pytest.mark.parametrize("name", NAMES)
def test_methods_that_need_ipc_images_say_so(name, context_of):
    """The others make more images than a class has."""
    cls = load_method(name)
    if cls(**cls.check_params).needs_ipc_images:
        with pytest.raises(ValueError, match="class 0 2"):
            distilled(name, grey(2, 2), 3, context_of())
    else:
        distilled(name, grey(2, 2), 3, context_of()).check(3)
