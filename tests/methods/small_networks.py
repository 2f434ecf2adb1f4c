"""A small student as a function of its weights, and what the slow versions of pixel methods share."""

from __future__ import annotations

import numpy
import torch

from evaluators.students import build

SIZE, CLASSES = 16, 3
CPU = torch.device("cpu")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student(weights):
    """The same network as a module, for the slow versions."""
    net = build("convnet", SIZE, CLASSES, 0).to(next(iter(weights.values())).dtype)
    net.load_state_dict(weights)
    return net


def close(ours, theirs):
    """To 1e-5 of the whole; in float64, where no ReLU is near enough to its edge to be turned by rounding."""
    theirs = theirs.detach()
    assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


def normalised(images, train, kind="data"):
    """uint8 images as the public codes normalise them: by channel, by the training images' mean and deviation.

    Their deviation is the mean over images of each image's own. "constant": by 0.5 and 0.25.
    """
    grey, real = (numpy.asarray(x, dtype=numpy.float64) / 255 for x in (images, train.images))
    mean, std = real.mean((0, 2, 3)), real.std((2, 3)).mean(0)
    if kind == "constant":
        mean, std = numpy.full(3, 0.5), numpy.full(3, 0.25)
    return torch.from_numpy((grey - mean[:, None, None]) / std[:, None, None]).float()


def in_float64(weights):
    return {name: w.double() for name, w in weights.items()}
