"""A small student as a function of its weights, and what the slow versions of pixel methods share."""

from __future__ import annotations

import numpy
import torch

from ddbench.context import generator_of
from ddbench.methods.latent_diffusion.rounds import SamplingBatch
from evaluators.students import build

SIZE, CLASSES = 16, 3
RATE, MOMENTUM = 0.3, 0.5  # of pixels, in tests of an iteration
CPU = torch.device("cpu")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(starts, model=None, labels=None, conditions=None, finished=None, targets=None):
    """A sampling batch; image i is of class i and has its condition, unless there are labels."""
    labels = torch.arange(len(starts)) if labels is None else torch.tensor(labels)
    conditions = randn(int(labels.max()) + 2, 5, 6, seed=9) if conditions is None else conditions
    finished = torch.empty(len(starts), 0, *starts.shape[1:]) if finished is None else finished
    draws = lambda name: [generator_of(0, name, i) for i in range(len(starts))]  # noqa: E731
    return SamplingBatch(model, starts, labels, conditions, labels, finished, draws, targets)


def student(weights):
    """The same network as a module, for the slow versions."""
    net = build("convnet", SIZE, CLASSES, 0).to(next(iter(weights.values())).dtype)
    net.load_state_dict(weights)
    return net


def close(ours, theirs):
    """To 1e-5 of the whole; in float64, where no ReLU is near enough to its edge to be turned by rounding."""
    near(ours, theirs.detach(), 1e-5)


def near(ours, theirs, tolerance=1e-4):
    """To a share of the whole."""
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


def fresh(train, seed):
    """A convnet of the size and classes of these images."""
    return build("convnet", train.images.shape[-1], len(train.classes), seed)


def drawn(train, label, count, numbers, kind):
    """As documented: different images of the class, normalised."""
    rows = train.of_class(label)
    return normalised(train.images[rows[torch.randperm(len(rows), generator=numbers)[:count]]], train, kind)


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
