"""Every image of an augmented batch against a slow reference that loops over its pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from evaluators import augment, dsa, operations
from evaluators.recipes import DSA, OPERATIONS, Augment

DRAWN = ("theta", "brightness", "contrast", "saturation", "hole")
ALL = Augment((0.3, 1.0), (0.75, 4 / 3), 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.5)


def pictures(n=6, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def generators(seed=0):
    return augment.make_generators(seed)


def sample(image, x, y):
    """Bilinear value at pixel coordinates (centres at whole numbers), the border repeated."""
    _, h, w = image.shape
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    x0, y0 = math.floor(x), math.floor(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    low = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + low * (y - y0)


def reference(image, drawn, share):
    """One image, one pixel at a time."""
    theta, brightness, contrast, saturation, hole = drawn
    _, h, w = image.shape
    out = np.empty_like(image)
    for row in range(h):
        for column in range(w):
            u, v = (2 * column + 1) / w - 1, (2 * row + 1) / h - 1
            x, y = theta @ np.array([u, v, 1.0])
            out[:, row, column] = sample(image, ((x + 1) * w - 1) / 2, ((y + 1) * h - 1) / 2)
    luma = np.array([0.299, 0.587, 0.114])
    out = out * brightness
    mean = np.tensordot(luma, out, 1).mean()
    out = (out - mean) * contrast + mean
    grey = np.tensordot(luma, out, 1)
    out = np.clip((out - grey) * saturation + grey, 0, 1)
    for row in range(h):
        for column in range(w):
            if abs((2 * column + 1) / w - 1 - hole[0]) < share and abs((2 * row + 1) / h - 1 - hole[1]) < share:
                out[:, row, column] = 0.5
    return out


def test_batch_equals_the_reference_image_by_image():
    images = pictures()
    drawn = augment.draw(6, ALL, generators())
    batch = augment.apply(images, drawn, ALL)
    for i, got in enumerate(batch):
        own = [getattr(drawn, name)[i].double().numpy() for name in DRAWN]
        expected = reference(images[i].double().numpy(), own, ALL.cutout)
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_nothing_asked_nothing_changed():
    images = pictures()
    assert torch.equal(augment.apply(images, augment.draw(6, Augment(), generators()), Augment()), images)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"flip_x": 1.0}, lambda x: x.flip(3)),
        ({"flip_y": 1.0}, lambda x: x.flip(2)),
        ({"transpose": 1.0}, lambda x: x.transpose(2, 3)),
        ({"flip_x": 1.0, "flip_y": 1.0}, lambda x: x.rot90(2, (2, 3))),
    ],
)
def test_certain_flips_are_exact_flips(options, expected):
    images, only = pictures(), Augment(**options)
    got = augment.apply(images, augment.draw(6, only, generators()), only)
    torch.testing.assert_close(got, expected(images), atol=1e-5, rtol=0)


def test_the_eight_symmetries_are_equally_likely():
    drawn = augment.draw(8000, Augment(flip_x=0.5, flip_y=0.5, transpose=0.5), generators())
    _, counts = drawn.theta.unique(dim=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 880  # 1000 expected, standard deviation 30


def test_crops_stay_inside_and_keep_to_area_and_ratio():
    drawn = augment.draw(4000, Augment(crop_area=(0.3, 0.6), crop_ratio=(0.8, 1.25)), generators())
    width, height = drawn.theta[:, 0, 0], drawn.theta[:, 1, 1]
    area, ratio = width * height, width / height
    assert 0.299 < area.min() < 0.31
    assert 0.59 < area.max() < 0.601
    assert 0.799 < ratio.min() < 0.81
    assert 1.23 < ratio.max() < 1.251
    assert ((drawn.theta[:, :, 2].abs() + torch.stack([width, height], 1)) <= 1 + 1e-6).all()


def test_crops_drawn_again_are_torchvisions():
    """The distribution of RandomResizedCrop: against its own draws, by the quartiles of area and ratio."""
    only = Augment(crop_area=(0.5, 1.0), crop_ratio=(0.5, 2.0), crop_tries=10)
    theta = augment.draw(4000, only, generators()).theta
    ours = torch.stack([theta[:, 0, 0], theta[:, 1, 1]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [RandomResizedCrop.get_params(torch.empty(1, 999, 999), (0.5, 1), (0.5, 2)) for _ in range(4000)]
    theirs = torch.tensor([[crop[3], crop[2]] for crop in found]).T / 999
    assert ours.max() <= 1
    for of in (torch.mul, torch.div):
        for q in (0.25, 0.5, 0.75):
            assert of(*ours).quantile(q) == pytest.approx(float(of(*theirs).quantile(q)), rel=0.03)


def test_a_crop_that_never_fits_is_the_whole_image():
    only = Augment(crop_area=(1.0, 1.0), crop_ratio=(2.0, 2.0), crop_tries=3)
    images = pictures()
    got = augment.apply(images, augment.draw(6, only, generators()), only)
    torch.testing.assert_close(got, images, atol=1e-5, rtol=0)


SHARED = {"crop_tries": 5, "cutmix": 1.0, "dsa": DSA}
SEPARATE = {"operations": OPERATIONS, "erasing": 1.0, "mixup": 1.0, "lighting": 0.1, "shuffle_pieces": 2}


@pytest.mark.parametrize("name", [*SHARED, *SEPARATE])
def test_an_option_changes_no_draw_before_it_and_only_shared_ones_those_of_later_batches(name):
    one, other = generators(), generators()
    option = {name: (SHARED | SEPARATE)[name]}
    for batch in range(2):
        drawn, plain = augment.draw(4, replace(ALL, **option), one), augment.draw(4, ALL, other)
        equal = [torch.equal(getattr(drawn, part), getattr(plain, part)) for part in ("hole", "brightness")]
        assert equal == [batch == 0 or name in SEPARATE] * 2


@pytest.mark.parametrize("name", SEPARATE)
def test_options_with_a_generator_of_their_own_change_no_shared_draw(name):
    one, other = generators(), generators()
    for _ in range(2):
        drawn = augment.draw(4, Augment(dsa=DSA, crop_tries=3, **{name: SEPARATE[name]}), one)
        plain = augment.draw(4, Augment(dsa=DSA, crop_tries=3), other)
        assert torch.equal(drawn.dsa.numbers, plain.dsa.numbers)


def test_flips_colour_and_cutout_move_no_draw_of_any_batch():
    numbers, others = generators(), generators()
    varied = replace(ALL, flip_x=0.0, flip_y=1.0, transpose=0.0, contrast=0.0, cutout=0.1)
    for _ in range(2):
        drawn, plain = augment.draw(4, varied, numbers), augment.draw(4, ALL, others)
        assert torch.equal(drawn.hole, plain.hole)
        assert torch.equal(drawn.brightness, plain.brightness)


MIXED = Augment(cutmix=0.7)


def mixed_one_by_one(images, targets, drawn):
    """Pixel by pixel: the partner's where the centre of the pixel lies in the square."""
    out, labels, size = images.clone(), targets.clone(), images.shape[-1]
    for i, (partner, (x, y, side)) in enumerate(zip(drawn.partner.tolist(), drawn.patch.tolist(), strict=True)):
        count = 0
        for row in range(size):
            for column in range(size):
                if abs((2 * column + 1) / size - 1 - x) < side and abs((2 * row + 1) / size - 1 - y) < side:
                    out[i, :, row, column] = images[partner, :, row, column]
                    count += 1
        share = count / size**2
        labels[i] = (1 - share) * targets[i] + share * targets[partner]
    return out, labels


def test_cutmix_equals_the_reference_image_by_image():
    images, targets = pictures(12), torch.eye(12)
    drawn = augment.draw(12, MIXED, generators())
    got, labels = augment.mix(images, targets, drawn)
    expected = mixed_one_by_one(images, targets, drawn)
    torch.testing.assert_close(got, expected[0])
    torch.testing.assert_close(labels, expected[1])
    torch.testing.assert_close(labels.sum(1), torch.ones(12))


def test_cutmix_draws_the_share_evenly_and_mixes_as_often_as_asked():
    drawn = augment.draw(4000, MIXED, generators())
    area = drawn.patch[:, 2] ** 2
    assert 0.67 < (area > 0).float().mean() < 0.73
    torch.testing.assert_close(area[area > 0].quantile(torch.tensor([0.25, 0.5, 0.75])),
                               torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)  # fmt: skip
    assert len(drawn.partner.unique()) == 4000


BLENDED = Augment(cutmix=0.3, mixup=0.5)


def test_mixup_blends_image_by_image():
    images, targets = pictures(12), torch.eye(12)
    drawn = augment.draw(12, BLENDED, generators())
    got, labels = augment.mix(images, targets, drawn)
    pasted, pasted_labels = mixed_one_by_one(images, targets, drawn)
    blended = [i for i in range(12) if drawn.blend[i] > 0]
    assert 0 < len(blended) < 12
    for i, (partner, share) in enumerate(zip(drawn.partner.tolist(), drawn.blend.tolist(), strict=True)):
        image, label = pasted[i], pasted_labels[i]
        if i in blended:
            image = (1 - share) * images[i] + share * images[partner]
            label = (1 - share) * targets[i] + share * targets[partner]
        torch.testing.assert_close(got[i], image)
        torch.testing.assert_close(labels[i], label)


def test_no_image_has_both_mixup_and_cutmix():
    drawn = augment.draw(4000, BLENDED, generators())
    pasted, blended = drawn.patch[:, 2] > 0, drawn.blend > 0
    assert not (pasted & blended).any()
    assert float(pasted.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(blended.float().mean()) == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(drawn.blend[blended].quantile(torch.tensor([0.25, 0.5, 0.75])),
                               torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)  # fmt: skip


def test_the_share_of_mixup_has_a_beta_distribution():
    """The same draws: the distribution's cumulative share is the uniform one. Squares of CutMix are left alone."""
    uniform, beta = (augment.draw(4000, replace(BLENDED, mixup_alpha=alpha), generators()) for alpha in (1.0, 0.8))
    assert torch.equal(uniform.patch, beta.patch)
    assert torch.equal(uniform.partner, beta.partner)
    cumulative = torch.from_numpy(stats.beta(0.8, 0.8).cdf(beta.blend.numpy())).float()
    torch.testing.assert_close(cumulative, uniform.blend, atol=1e-5, rtol=0)
    blended = beta.blend[uniform.blend > 0]
    assert float(blended.var()) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.05)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_draws_the_same_with_mixup():
    alone, both = (augment.draw(9, replace(BLENDED, mixup=mixup), generators()) for mixup in (0.0, 0.5))
    assert alone.blend is None
    assert torch.equal(alone.patch, both.patch)
    assert torch.equal(alone.partner, both.partner)


def test_mixing_by_batches_draws_one_square_or_share_and_leaves_other_draws():
    by_batch, numbers, others = replace(BLENDED, mix_batch=True), generators(), generators()
    kinds = []
    for _ in range(300):
        drawn, plain = augment.draw(4, by_batch, numbers), augment.draw(4, Augment(), others)
        assert torch.equal(drawn.hole, plain.hole)
        assert len(drawn.patch.unique(dim=0)) == len(drawn.blend.unique()) == 1
        assert sorted(drawn.partner.tolist()) == [0, 1, 2, 3]
        kinds.append((drawn.patch[0, 2] > 0, drawn.blend[0] > 0))
    pasted, blended = torch.tensor(kinds).float().mean(0)
    assert float(pasted) == pytest.approx(0.3, abs=0.08)
    assert float(blended) == pytest.approx(0.5, abs=0.08)


def test_lighting_adds_alexnets_noise():
    """Noise with the covariance 0.1^2 V diag(w^2) V^T, equal for all pixels of an image, clipped nowhere."""
    images, only = pictures(), Augment(lighting=0.1)
    drawn = augment.draw(6, only, generators())
    torch.testing.assert_close(augment.apply(images, drawn, only), images + drawn.light[:, :, None, None])
    light = augment.draw(20_000, only, generators()).light.double()
    axes, weights = (torch.tensor(x, dtype=torch.float64) for x in (augment.PRINCIPAL_COLOURS, augment.COLOUR_WEIGHTS))
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64), atol=1e-3, rtol=0)
    expected = 0.01 * axes @ (weights**2).diag() @ axes.T
    torch.testing.assert_close(light.T.cov(), expected, atol=1e-5, rtol=0.03)


def test_erasing_equals_the_reference_image_by_image():
    images, only = pictures(30), Augment(erasing=0.6)
    drawn = augment.draw(30, only, generators())
    got = augment.apply(images, drawn, only)
    for x, (across, down, right, below), one in zip(images.clone(), drawn.erased.tolist(), got, strict=True):
        width, height = round(across * 16), round(down * 16)
        left, top = math.floor(right * (16 - width + 1)), math.floor(below * (16 - height + 1))
        for row in range(top, top + height):
            for column in range(left, left + width):
                x[:, row, column] = 0.5
        assert torch.equal(one, x)


def test_erased_rectangles_keep_to_area_and_ratio():
    width, height = augment.draw(4000, Augment(erasing=0.25), generators()).erased[:, :2].T
    erased = width > 0
    assert float(erased.float().mean()) == pytest.approx(0.25, abs=0.02)
    area, ratio = (width * height)[erased], (height / width)[erased]
    assert 0.02 <= area.min() < 0.03
    assert 0.32 < area.max() <= 1 / 3 + 1e-6
    assert 0.3 <= ratio.min() + 1e-6 < 0.35
    assert 3.0 < ratio.max() <= 3.3 + 1e-5
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.06)


EVERYTHING = replace(ALL, operations=OPERATIONS, operations_per_image=2, magnitude_deviation=0.2, erasing=0.5)


def test_the_result_is_the_same_whatever_the_batch():
    images, drawn = pictures(24), augment.draw(24, EVERYTHING, generators())
    whole = augment.apply(images, drawn, EVERYTHING)
    for i in range(24):
        one = operations.OperationNumbers([row[i : i + 1] for row in drawn.operations.names],
                              *(x[:, i : i + 1] for x in list(vars(drawn.operations).values())[1:]))  # fmt: skip
        own = {name: value[i : i + 1] for name, value in vars(drawn).items() if isinstance(value, torch.Tensor)}
        alone = augment.apply(images[i : i + 1], augment.BatchNumbers(**own, operations=one), EVERYTHING)
        torch.testing.assert_close(alone[0], whole[i], atol=1e-6, rtol=0)


def test_mixing_needs_numbers_for_it():
    with pytest.raises(ValueError, match="has no CutMix or mixup"):
        augment.mix(pictures(), torch.eye(6), augment.draw(6, Augment(), generators()))


def test_dsa_acts_on_normalised_images():
    images, only = pictures(), Augment(dsa=("cutout",))
    drawn = augment.draw(6, only, generators())
    got = augment.apply(images, drawn, only)
    torch.testing.assert_close(got, 0.5 + 0.25 * dsa.apply((images - 0.5) / 0.25, drawn.dsa))
    assert (got == 0.5).any()


def test_an_unknown_operation_of_dsa_names_the_known():
    with pytest.raises(ValueError, match="'colour'; did you mean 'color'"):
        Augment(dsa=("colour",))


def test_colour_factors_fill_their_range():
    drawn = augment.draw(4000, Augment(brightness=0.1, contrast=0.2, saturation=0.3), generators())
    for factors, half in ((drawn.brightness, 0.1), (drawn.contrast, 0.2), (drawn.saturation, 0.3)):
        assert 1 - half <= factors.min() < 1 - 0.98 * half
        assert 1 + 0.98 * half < factors.max() <= 1 + half


def test_every_image_has_its_own_draw():
    images = pictures(1).expand(5, -1, -1, -1)
    got = augment.apply(images, augment.draw(5, ALL, generators()), ALL)
    assert all(not torch.equal(got[i], got[j]) for i in range(5) for j in range(i))


def test_draws_depend_on_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = (augment.draw(4, ALL, generators(s)).theta for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("size", [8, 24, 40])
def test_resize_is_pillows_bilinear(size):
    images = (255 * pictures()).byte()
    got = augment.resize(images, size)
    for one, found in zip(images, got, strict=True):
        expected = Image.fromarray(one.permute(1, 2, 0).numpy()).resize((size, size), Image.BILINEAR)
        np.testing.assert_allclose(found.permute(1, 2, 0), np.array(expected) / 255, atol=1.2 / 255)  # it rounds


def test_resize_keeps_the_middle():
    whole, middle = (augment.resize((255 * pictures()).byte(), 32, crop) for crop in (None, 28))
    assert torch.equal(middle, whole[:, :, 2:30, 2:30])


def test_a_crop_of_another_shape_needs_no_flips():
    wide = Augment(crop_ratio=(2.0, 2.0))
    images = pictures()
    drawn = augment.draw(len(images), wide, generators())
    assert not torch.equal(augment.apply(images, drawn, wide), images)


def test_shuffled_pieces_are_rdeds():
    """Strips of columns in one random order, then strips of rows in another: every image its own, all orders."""
    images, only = pictures(200, 8), Augment(shuffle_pieces=2)
    drawn = augment.draw(200, only, generators())
    shuffled = augment.apply(images, drawn, only)
    for image, result, (columns, rows) in zip(images, shuffled, drawn.pieces, strict=True):
        across = torch.cat([image[:, :, 4 * int(i) : 4 * int(i) + 4] for i in columns], 2)
        down = torch.cat([across[:, 4 * int(i) : 4 * int(i) + 4] for i in rows], 1)
        assert torch.equal(result, down)
    assert len({tuple(order.flatten().tolist()) for order in drawn.pieces}) == 4


def test_pixels_beyond_the_last_whole_piece_stay():
    images, only = pictures(50, 11), Augment(shuffle_pieces=3)
    shuffled = augment.apply(images, augment.draw(50, only, generators()), only)
    assert torch.equal(shuffled[:, :, 9:, 9:], images[:, :, 9:, 9:])
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled.flatten(2).sort().values, images.flatten(2).sort().values)
