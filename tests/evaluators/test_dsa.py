"""DSA against a slow reference, one pixel at a time, and its use for real and synthetic images alike."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from evaluators import dsa
from evaluators.recipes import DSA

SIZE = 16


def images(n=4, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def numbers(n=4, seed=2):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(x, row, column):
    """A pixel, 0 outside."""
    inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
    return x[:, row, column] if inside else np.zeros(len(x))


def resampled(x, matrix):
    """Bilinear, the centre of the image fixed, 0 outside."""
    out, (h, w) = np.empty_like(x), x.shape[1:]
    for row in range(h):
        for column in range(w):
            u, v = matrix @ [(2 * column + 1) / w - 1, (2 * row + 1) / h - 1]
            across, down = ((u + 1) * w - 1) / 2, ((v + 1) * h - 1) / 2
            left, top = math.floor(across), math.floor(down)
            a, d = across - left, down - top
            upper = (1 - a) * at(x, top, left) + a * at(x, top, left + 1)
            lower = (1 - a) * at(x, top + 1, left) + a * at(x, top + 1, left + 1)
            out[:, row, column] = (1 - d) * upper + d * lower
    return out


def color(x, u):
    x = x + u[0] - 0.5
    grey = x.mean(0)
    x = grey + (x - grey) * 2 * u[1]
    return x.mean() + (x - x.mean()) * (u[2] + 0.5)


def crop(x, u):
    """An eighth of the side: two pixels of sixteen, so five places."""
    down, across = (math.floor(one * 5) - 2 for one in u[:2])
    return np.array([[at(x, r + down, c + across) for c in range(SIZE)] for r in range(SIZE)]).transpose(2, 0, 1)


def cutout(x, u):
    """A square of eight pixels around any of 0..16."""
    row, column = (math.floor(one * 17) for one in u[:2])
    out = x.copy()
    for r in range(row - 4, row + 4):
        for c in range(column - 4, column + 4):
            if 0 <= r < SIZE and 0 <= c < SIZE:
                out[:, r, c] = 0
    return out


def flip(x, u):
    return x[:, :, ::-1] if u[0] < 0.5 else x


def scale(x, u):
    return resampled(x, np.diag(1 / 1.2 + u[:2] * (1.2 - 1 / 1.2)))


def rotate(x, u):
    angle = math.radians(15) * (2 * u[0] - 1)
    return resampled(x, np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]))


REFERENCE = {"color": color, "crop": crop, "cutout": cutout, "flip": flip, "scale": scale, "rotate": rotate}


@pytest.mark.parametrize("operation", DSA)
def test_each_operation_equals_the_reference_image_by_image(operation):
    got = dsa.apply(images(), dsa.DSANumbers(operation, numbers()))
    for x, u, found in zip(images(), numbers(), got, strict=True):
        np.testing.assert_allclose(found, REFERENCE[operation](x.numpy(), u.numpy()), atol=1e-6)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("operation", ["scale", "rotate"])
def test_sampling_in_order_is_kornias_sampling(operation, n, monkeypatch):
    """A GPU samples in order: compare values and gradients, for a draw of each image and for one of all images."""
    x, draw = images(4, 9).requires_grad_(), dsa.DSANumbers(operation, numbers(n))
    expected = dsa.apply(x, draw)
    monkeypatch.setattr(dsa, "_sums_in_any_order", lambda x: True)
    found, weights = dsa.apply(x, draw), images(4, 9).flip(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    slopes = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


@pytest.mark.parametrize("operation", DSA)
def test_one_draw_serves_batches_of_any_size(operation):
    draw = dsa.DSANumbers(operation, numbers(1))
    many = dsa.apply(images(5), draw)
    for i in range(5):
        torch.testing.assert_close(dsa.apply(images(5)[i : i + 1], draw)[0], many[i])


@pytest.mark.parametrize("operation", DSA)
def test_the_gradient_is_right(operation):
    x = images(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dsa.apply(x, dsa.DSANumbers(operation, numbers(2))), x)


@pytest.mark.parametrize("operation", DSA)
def test_the_ends_of_the_range_are_inside(operation):
    for u in (0.0, 1 - 2**-24):
        assert torch.isfinite(dsa.apply(images(1, 64).float(), dsa.DSANumbers(operation, torch.full((1, 3), u)))).all()


def test_all_operations_are_drawn_equally_often():
    generator = torch.Generator().manual_seed(0)
    drawn = [dsa.draw(1, generator).operation for _ in range(3000)]
    assert all(420 < drawn.count(name) < 580 for name in DSA)  # 500 expected, standard deviation 20


def test_only_what_was_asked_for_is_drawn():
    generator = torch.Generator().manual_seed(0)
    assert {dsa.draw(2, generator, ("flip", "crop")).operation for _ in range(50)} == {"flip", "crop"}


def test_images_of_a_batch_have_numbers_of_their_own():
    drawn = dsa.draw(6, torch.Generator().manual_seed(0))
    assert drawn.numbers.shape == (6, 3)
    assert len(drawn.numbers.unique(dim=0)) == 6


@pytest.mark.parametrize("apply", [dsa.apply_groups, dsa.every_operation])
def test_groups_are_augmented_each_by_its_draw(apply):
    """Every operation, in an order of its own; a group of one image, and of three."""
    order, sizes = [3, 0, 5, 1, 4, 2, 0], [1, 3, 2, 1, 2, 2, 1]
    x, u = images(sum(sizes)).requires_grad_(), numbers(len(sizes))
    groups = [
        dsa.apply(g, dsa.DSANumbers(DSA[i], u[k : k + 1]))
        for k, (g, i) in enumerate(zip(x.split(sizes), order, strict=True))
    ]
    expected, weights = torch.cat(groups), images(sum(sizes)).flip(0)
    found = apply(x, torch.tensor(order), u, sizes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    slopes = [torch.autograd.grad((weights * y).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_every_operation_is_computed_on_the_device():
    """What a CUDA graph cannot hold: a tensor copied from the host. kornia's functions copy none."""

    class Copies(TorchDispatchMode):
        calls = ()

        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            if any(isinstance(x, torch.Tensor) and x.device.type == "cpu" for x in tree_leaves((args, kwargs))):
                self.calls += (str(call),)
            return call(*args, **(kwargs or {}))

    with FakeTensorMode(), Copies() as copies:
        x, u, order = (torch.empty(shape, device="cuda") for shape in ((4, 3, SIZE, SIZE), (2, 3), (2,)))
        for images in (x, x.requires_grad_()):  # kornia's sampling, and the one whose gradient adds in order
            assert dsa.every_operation(images, order.long(), u, [3, 1]).device.type == "cuda"
        assert not copies.calls
        torch.tensor([1.0, 2.0], device="cuda")
        assert copies.calls
