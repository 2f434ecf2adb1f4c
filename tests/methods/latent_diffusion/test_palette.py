"""Captions from pixels, on pictures whose description is known."""

from __future__ import annotations

import pytest
import torch

from ddbench.methods.latent_diffusion.captions import describe_colours


def plain(red: int, green: int, blue: int, size: int = 64) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, size, size)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"), ((70, 70, 70), "dark gray"), ((130, 130, 130), "gray"), ((240, 240, 240), "white"),
        ((200, 20, 20), "bright red"), ((20, 60, 20), "dark green"), ((40, 150, 40), "green"),
        ((20, 20, 80), "dark blue"), ((150, 90, 50), "brown"), ((160, 150, 40), "yellow"), ((150, 20, 40), "red"),
        ((130, 40, 140), "purple"),
    ],
)  # fmt: skip
def test_plain_colours_have_their_names(colour, name):
    assert describe_colours(plain(*colour)) == [f"{name}, smooth texture, few edges"]


def test_two_colours_edges_and_texture():
    halves = plain(240, 240, 240).clone()
    halves[..., :24] = plain(20, 60, 20)[..., :24]
    assert describe_colours(halves) == ["white and dark green, uneven texture, some edges"]
    noise = torch.randint(0, 256, (1, 1, 32, 32), generator=torch.Generator().manual_seed(0)).expand(1, 3, 32, 32)
    assert describe_colours(noise.to(torch.uint8))[0].endswith("rough texture, many edges")


def test_a_caption_does_not_depend_on_its_batch_or_the_size():
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    together = describe_colours(images)
    assert together == [describe_colours(image[None])[0] for image in images]
    assert together == describe_colours(images.repeat_interleave(2, 2).repeat_interleave(2, 3))
