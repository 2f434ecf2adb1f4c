"""Compare kornia with the published operations: ours stays where they differ."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation import RandomErasing
from kornia.enhance import (
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    jpeg_codec_differentiable,
    normalize_min_max,
    solarize,
)
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import resize, warp_affine
from kornia.metrics import ssim
from PIL import Image

from evaluators import augment, dsa, operations
from evaluators.corruptions import LEVELS, corrupt
from evaluators.fidelity import nn_ssim
from evaluators.recipes import Augment


def pictures(n=4, size=32):
    smooth = F.interpolate(torch.rand(n, 3, 8, 8, generator=generator()), (size, size), mode="bicubic")
    return (255 * smooth.clamp(0, 1)).round() / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_contrast_and_saturation_clip_in_between():
    """Ours clip once, at the end: a bright image that loses contrast keeps what brightness lifted above 1."""
    options = Augment(brightness=0.5, contrast=0.5, saturation=0.5)
    drawn = augment.draw(4, options, augment.make_generators(1))
    ours = augment.apply(pictures(), drawn, options)
    lit = pictures() * drawn.brightness[:, None, None, None]
    clipped = adjust_contrast_with_mean_subtraction(lit, drawn.contrast)
    clipped = adjust_saturation_with_gray_subtraction(clipped, drawn.saturation)
    assert (ours - clipped).abs().max() > 0.05
    inside = pictures() * 0.2 + 0.4  # values that nothing clips
    drawn = augment.draw(4, Augment(brightness=0.1, contrast=0.1, saturation=0.1), augment.make_generators(1))
    ours = augment.apply(inside, drawn, Augment(brightness=0.1, contrast=0.1, saturation=0.1))
    lit = inside * drawn.brightness[:, None, None, None]
    theirs = adjust_contrast_with_mean_subtraction(lit, drawn.contrast)
    torch.testing.assert_close(ours, adjust_saturation_with_gray_subtraction(theirs, drawn.saturation))


def test_dsa_has_another_grey():
    numbers = torch.tensor([[0.5, 0.75, 0.5]])  # saturation by 1.5, nothing else
    ours = dsa.apply(pictures(), dsa.DSANumbers("color", numbers))
    theirs = adjust_saturation_with_gray_subtraction(pictures(), torch.tensor(1.5))
    inside = (theirs > 0) & (theirs < 1)
    assert (ours - theirs)[inside].abs().max() > 0.02


def test_crops_are_those_of_warp_affine():
    options = Augment((0.3, 1.0), (0.75, 4 / 3), 0.5, 0.5, 0.5)
    drawn = augment.draw(9, options, augment.make_generators(0))
    to_units = torch.tensor([[2 / 32, 0, 1 / 32 - 1], [0, 2 / 32, 1 / 32 - 1], [0, 0, 1]])
    theta = torch.cat([drawn.theta, torch.tensor([[[0.0, 0, 1]]]).expand(9, 1, 3)], 1)
    pixels = to_units.inverse() @ theta.inverse() @ to_units  # input to output, in pixels
    theirs = warp_affine(pictures(9), pixels[:, :2], (32, 32), padding_mode="border", align_corners=False)
    torch.testing.assert_close(augment.apply(pictures(9), drawn, options), theirs, atol=2e-5, rtol=0)


def test_resize_is_no_pillow_resize():
    theirs = resize(pictures(), (20, 20), antialias=True, align_corners=False)
    images = (255 * pictures()).round().byte()
    image = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
    pillows = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert (augment.resize(images, 20)[0] - pillows).abs().max() < 1.2 / 255
    assert (theirs[0] - pillows).abs().max() > 5 / 255


def test_erasing_is_that_of_random_erasing():
    """Its numbers are handed over: all that kornia wants to know beside the rectangle."""
    options = Augment(erasing=0.7)
    drawn = augment.draw(20, options, augment.make_generators(0))
    across, down = (32 * drawn.erased[:, :2]).round().unbind(1)
    left, top = ((32 - side + 1) * u for side, u in zip((across, down), drawn.erased[:, 2:].unbind(1), strict=True))
    numbers = {
        "widths": across, "heights": down, "xs": left.floor(), "ys": top.floor(), "values": torch.full((20,), 0.5),
        "batch_prob": torch.ones(20), "forward_input_shape": torch.tensor([20, 3, 32, 32]),
    }  # fmt: skip
    theirs = RandomErasing(p=1.0)(pictures(20), params=numbers)
    assert torch.equal(augment.apply(pictures(20), drawn, options), theirs)
    assert 8 < (across > 0).sum() < 20


def test_additions_of_solarize_change_bright_pixels_too():
    """RandAugment's SolarizeAdd leaves them alone."""
    x = torch.tensor([0.2, 0.45, 0.8]).expand(1, 3, 1, 3).contiguous()
    drawn = operations.OperationNumbers([["solarize_add"]], torch.ones(1, 1), torch.zeros(1, 1, 5))
    ours = operations.apply(x, drawn)[0, 0, 0]
    assert ours.tolist() == pytest.approx([0.2 + 110 / 255, 0.45 + 110 / 255, 0.8])
    assert not torch.isclose(solarize(x, 0.5, 110 / 255)[0, 0, 0], ours).all()


def test_normalize_min_max_makes_flat_colours_black():
    assert float(normalize_min_max(torch.full((1, 3, 4, 4), 0.7)).abs().max()) == 0


@pytest.mark.parametrize("level", range(3))
def test_the_blur_differs_in_bytes_where_rounding_decides(level):
    """gaussian_blur2d gives torchvision's values up to rounding, but another byte now and then."""
    sigma = 64 * LEVELS["blur"][level]
    images = (255 * torch.rand(64, 3, 64, 64, generator=generator())).byte()
    side = 2 * max(1, round(3 * sigma)) + 1
    theirs = 255 * gaussian_blur2d(images.float() / 255, side, (sigma, sigma))
    ours = corrupt(images, "blur", level).float()
    assert (ours - theirs).abs().max() < 0.501
    assert (ours != theirs.round()).sum() < 100  # of 786 432


@pytest.mark.parametrize("level", range(3))
def test_the_jpeg_codec_is_not_that_of_files(level):
    images = (255 * pictures()).round().byte()
    theirs = 255 * jpeg_codec_differentiable(images.float() / 255, torch.tensor([float(LEVELS["jpeg"][level])]))
    assert (corrupt(images, "jpeg", level).float() - theirs).abs().max() > 3


def test_ssim_reflects_where_dpd_pads_with_zeros():
    real, fake = (255 * pictures(1)).byte(), (255 * pictures(2)[1:]).byte()
    label = torch.zeros(1, dtype=torch.int64)
    ours = float(nn_ssim(real, label, fake, label, size=32))
    same, padded = (
        float(ssim(F.pad(real / 255, [pad] * 4), F.pad(fake / 255, [pad] * 4), 11, eps=0.0, padding=padding).mean())
        for pad, padding in ((0, "same"), (5, "valid"))
    )
    assert ours == pytest.approx(padded, abs=1e-6)
    assert abs(ours - same) > 1e-3
