"""Test which pieces RDED chooses, against a slow version, and how it composes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddbench.methods import rded
from ddbench.methods.rded import RDED

QUICK = {"epochs": 1, "least": 2}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


class Brightness(nn.Module):
    """Says class 1 the surer, the brighter an image is."""

    def __init__(self):
        super().__init__()
        self.still = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        light = images.mean((1, 2, 3))
        return torch.stack([-light, light], 1)


def test_doubts_are_of_the_piece_in_the_middle_of_grey():
    pieces = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=numbers())
    whole = torch.full((5, 3, 16, 16), 0.5)
    whole[:, :, 4:12, 4:12] = pieces.float() / 255
    expected = F.cross_entropy(Brightness()(whole), torch.ones(5, dtype=torch.long), reduction="none").detach()
    torch.testing.assert_close(rded.label_cross_entropy(Brightness(), pieces, 1, 16, batch=2), expected)


def test_the_surest_piece_of_each_image_then_the_surest_images(few_scenes, context_of):
    method = RDED(images=6, crops=4)
    best, rows_of_best = method._best_pieces(few_scenes, 1, 3, 2, Brightness(), context_of())
    own = context_of().generator("rded", few_scenes.classes[1])
    rows = few_scenes.of_class(1)[torch.randperm(6, generator=own)]
    tries = [rded.crop_pieces(few_scenes.images[rows], 2, 0.08, own) for _ in range(4)]
    surest = []
    for i in range(6):
        of_image = [t[i] for t in tries]
        doubts = [float(rded.label_cross_entropy(Brightness(), piece[None], 1, 32)) for piece in of_image]
        surest.append((min(doubts), of_image[doubts.index(min(doubts))], int(rows[i])))
    expected = sorted(surest, key=lambda of_image: of_image[0])[:3]
    assert torch.equal(best, torch.stack([piece for _, piece, _ in expected]))
    assert rows_of_best.tolist() == [row for _, _, row in expected]


def test_pieces_are_squares_of_the_image():
    image = torch.arange(32 * 32).view(1, 1, 32, 32).expand(64, 3, -1, -1) % 256
    pieces = rded.crop_pieces(image.to(torch.uint8), 2, 1.0, numbers())
    assert pieces.shape == (64, 3, 16, 16)
    assert all(torch.equal(piece, pieces[0]) for piece in pieces)  # the whole image every time
    assert len({tuple(p.flatten().tolist()) for p in rded.crop_pieces(image.to(torch.uint8), 2, 0.08, numbers())}) > 60


def test_tiles_lie_row_by_row():
    pieces = torch.arange(8).view(8, 1, 1, 1).expand(-1, 3, 2, 2)  # two images of 2 x 2 pieces
    first, second = rded.tile_pieces(pieces, 2)
    assert first[0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6], [4, 4, 6, 6]]
    assert torch.equal(second, first + 1)


def test_rded_brings_its_teachers_opinions(few_scenes, context_of):
    method = RDED(images=6, crops=2, factor=1, teacher="convnet", **QUICK)
    made = method.distill(few_scenes, 2, context_of())
    made.check(2)
    assert made.soft_labels.shape == (6, 3)
    whole = replace(method, smallest=1.0).distill(few_scenes, 2, context_of())  # a piece is an image
    named = [few_scenes.names.index(name) for (name,) in whole.extras["pieces"]]
    assert torch.equal(whole.images, few_scenes.images[named])
    tiles = replace(method, smallest=1.0, factor=2).distill(few_scenes, 1, context_of())
    corners = tiles.images.unflatten(-1, (2, 16)).unflatten(2, (2, 16))  # (n, 3, row, y, column, x)
    for image, files in zip(corners, tiles.extras["pieces"], strict=True):
        for cell, name in enumerate(files):
            piece = few_scenes.images[few_scenes.names.index(name)][None].float()
            small = F.interpolate(piece, (16, 16), mode="bilinear", antialias=True)[0].round().to(torch.uint8)
            assert torch.equal(image[:, cell // 2, :, cell % 2], small)
    assert replace(method, soft=False).distill(few_scenes, 2, context_of()).soft_labels is None
    with pytest.raises(ValueError, match="2 images of 4 pieces need 8 images per class: beach 6"):
        replace(method, factor=2).distill(few_scenes, 2, context_of())
