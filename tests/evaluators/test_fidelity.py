"""Every number against the formula written out slowly, or a closed form."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from PIL import Image

from evaluators import fidelity
from evaluators.fidelity import agreement, fid, intra_class_coverage, kid, nearest_distances, neighbourhoods, nn_ssim

ZERO = torch.zeros(8, dtype=torch.int64)


def draw(n, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d))
    return torch.tensor(rng.normal(size=(n, d)) @ mixing + shift, dtype=torch.float32)


def formula(real, fake):
    """Heusel's, by the root of the product of the covariances."""
    a, b = real.double().numpy(), fake.double().numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)


def test_fid_is_the_formula():
    real, fake = draw(300, 12, 0), draw(200, 12, 1, shift=0.3)
    assert fid(real, fake) == pytest.approx(formula(real, fake), rel=1e-4)


@pytest.mark.parametrize(("n", "m"), [(300, 8), (9, 300), (9, 8)])
def test_fid_is_the_formula_with_fewer_images_than_features(n, m):
    real, fake = draw(n, 20, 0), draw(m, 20, 1, shift=0.3)
    assert fid(real, fake) == pytest.approx(formula(real, fake), rel=1e-4)
    assert fid(real, fake) == pytest.approx(fid(fake, real), rel=1e-9)


def test_blocks_of_rows_change_no_number(monkeypatch):
    """More features than are converted at once: 300 in blocks of 64, and of 5, fewer than features have dimensions."""
    real, fake = draw(300, 12, 0), draw(200, 12, 1, shift=0.3)
    whole, plane = fid(real, fake), fidelity.principal_plane(real)
    for block in (64, 5):
        monkeypatch.setattr(fidelity, "BLOCK", block)
        assert fid(real, fake) == pytest.approx(whole, rel=1e-9)
        for one, other in zip(plane, fidelity.principal_plane(real), strict=True):
            assert torch.allclose(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        fid(torch.cat([real, torch.full((1, 12), torch.inf)]), fake)


def test_fid_of_known_gaussians():
    """Features on axes of their own: (mean difference)^2 + the sum of (difference of deviations)^2."""
    axes = torch.eye(3) * math.sqrt(3)
    unit = torch.cat([axes, -axes])
    unit = unit / unit.std(0)
    assert fid(unit, 3 * unit + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5 + 3 * 2**2)
    assert fid(unit, unit) == pytest.approx(0, abs=1e-9)


def test_kid_is_the_mean_over_pairs():
    real, fake = draw(30, 6, 0), draw(7, 6, 1, shift=0.5)

    def kernel(x, y):
        return (float(x.double() @ y.double()) / 6 + 1) ** 3

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (real, fake)
    ]
    across = np.mean([kernel(x, y) for x in real for y in fake])
    assert kid(real, fake) == pytest.approx(sum(within) - 2 * across)


def test_kid_of_one_distribution_is_zero_on_average_however_few():
    found = [kid(draw(40, 3, seed), draw(4, 3, 1000 + seed)) for seed in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20


@pytest.mark.parametrize("measure", [fid, kid])
def test_one_image_is_not_enough(measure):
    with pytest.raises(ValueError, match="two"):
        measure(draw(10, 3, 0), draw(1, 3, 1))


def test_chunks_change_nothing(monkeypatch):
    real, fake = draw(50, 6, 0), draw(20, 6, 1)
    before = kid(real, fake), neighbourhoods(real, fake)
    monkeypatch.setattr(fidelity, "ROWS", 7)
    assert kid(real, fake) == pytest.approx(before[0])
    assert neighbourhoods(real, fake) == before[1]


LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1])


def test_coverage_image_by_image():
    real, fake = draw(7, 5, 0), draw(3, 5, 1)
    expected = []
    for label in range(2):
        nearest = []
        for x in real[LABELS[0] == label]:
            cosines = [float(x @ y / (x.norm() * y.norm())) for y in fake[LABELS[1] == label]]
            nearest.append(max(cosines))
        expected.append(np.mean(nearest))
    assert intra_class_coverage(real, LABELS[0], fake, LABELS[1]) == pytest.approx(expected, abs=1e-6)


def test_the_real_images_themselves_cover_everything():
    real = draw(7, 5, 0)
    assert intra_class_coverage(real, LABELS[0], real, LABELS[0]) == pytest.approx((1, 1))


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match="no distilled image of class 1"):
        intra_class_coverage(draw(7, 5, 0), LABELS[0], draw(3, 5, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no real image of class 2"):
        intra_class_coverage(draw(7, 5, 0), LABELS[0], draw(3, 5, 1), torch.tensor([0, 1, 2]))


def balls(x, k):
    """Distance of each to its k-th nearest other."""
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    return np.sort(distance, axis=1)[:, k]


def test_neighbourhoods_ball_by_ball():
    real, fake = draw(40, 4, 0), draw(15, 4, 1, shift=0.4)
    a, b = real.double().numpy(), fake.double().numpy()
    across = np.linalg.norm(a[:, None] - b[None], axis=2)
    inside = across < balls(a, 5)[:, None]
    got = neighbourhoods(real, fake)
    assert got.precision == pytest.approx(inside.any(0).mean())
    assert got.density == pytest.approx(inside.sum() / 5 / 15)
    assert got.coverage == pytest.approx(inside.any(1).mean())
    assert got.recall == pytest.approx((across < balls(b, 5)[None]).any(1).mean())
    assert got.nearest == 5
    assert 0 < got.recall < 1


def test_neighbourhoods_of_real_images_among_themselves_have_exact_ties():
    """A chosen image lies on the border of its neighbours' balls: rounding must not decide on which side."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        real = 30 + torch.randn(60, 40, generator=draw)
        fake = real[torch.randperm(60, generator=draw)[:12]]
        gaps = (real.double()[:, None] - fake.double()[None]).square().sum(2).sqrt()
        own = (real.double()[:, None] - real.double()[None]).square().sum(2).sqrt()
        radii = own.sort(1).values[:, 5]
        within = gaps < radii[:, None] - 1e-9 * radii[:, None]
        found = neighbourhoods(real, fake)
        assert found.coverage == pytest.approx(float(within.any(1).double().mean()))
        assert found.density == pytest.approx(float(within.sum() / 12 / 5))


@pytest.mark.parametrize(("images", "nearest"), [(2, None), (3, 1), (6, 4), (7, 5), (50, 5)])
def test_few_images_have_fewer_neighbours(images, nearest):
    got = neighbourhoods(draw(60, 4, 0), draw(images, 4, 1))
    assert (got.nearest if got else None) == nearest


def test_nearest_distances_image_by_image():
    """Class 0 has two groups of two real images (0 and 2, 1 and 3; the last is left over), class 1 one of three."""
    real, real_labels = torch.tensor([[0.0], [10], [3], [14], [99], [0], [1], [5]]), torch.tensor([0] * 5 + [1] * 3)
    fake, fake_labels = torch.tensor([[0.0], [7], [2], [4], [5]]), torch.tensor([0, 1, 0, 1, 1])
    among_fake, among_real = nearest_distances(real, real_labels, fake, fake_labels)
    assert among_fake == pytest.approx((2, (2 + 1 + 1) / 3))
    assert among_real == pytest.approx(((3 + 4) / 2, (1 + 1 + 4) / 3))


def test_nearest_distances_do_not_depend_on_the_number_of_real_images():
    """Ten times as many real images are nearer one another; the samples are as far apart as ten times fewer are."""
    labels = torch.zeros(1000, dtype=torch.int64)
    (fake,), (real,) = nearest_distances(draw(1000, 4, 0), labels, draw(100, 4, 1), labels[:100])
    assert fake / real == pytest.approx(1, abs=0.1)
    assert balls(draw(1000, 4, 0).numpy(), 1).mean() < 0.7 * real


def test_samples_that_repeat_one_another_have_no_distance():
    real, twice = draw(20, 4, 0), draw(5, 4, 1).repeat(2, 1)
    labels = torch.zeros(20, dtype=torch.int64)
    (fake,), (among_real,) = nearest_distances(real, labels, twice, labels[:10])
    assert fake == 0 < among_real


@pytest.mark.parametrize("count", [1, 9])
def test_nearest_distances_need_two_samples_and_as_many_real_images(count):
    with pytest.raises(ValueError, match=f"class 0 has {count} distilled images, not 2 to 8"):
        nearest_distances(draw(8, 4, 0), ZERO, draw(count, 4, 1), torch.zeros(count, dtype=torch.int64))


def pictures(n, seed, size=24):
    rng = np.random.default_rng(seed)
    rough = rng.random((n, 3, size, size))
    smooth = scipy.ndimage.gaussian_filter(rough, (0, 0, 1, 1))
    return torch.tensor((255 * smooth).astype(np.uint8))


def ssim_of(x, y):
    """One pair, by scipy's filter with zeros outside."""
    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2

    def blur(z):
        return np.stack([scipy.ndimage.convolve(c, window, mode="constant") for c in z])

    x, y = x.double().numpy() / 255, y.double().numpy() / 255
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


def test_nn_ssim_pair_by_pair():
    real, fake = pictures(20, 0), pictures(3, 1)
    labels = torch.tensor([0] * 8 + [1] * 12), torch.tensor([0, 1, 1])
    expected = []
    for y, label in zip(fake, labels[1], strict=True):
        similar = sorted(ssim_of(x, y) for x in real[labels[0] == label])
        expected.append(np.mean(similar[-5:]))
    np.testing.assert_allclose(nn_ssim(real, labels[0], fake, labels[1], size=24), expected, atol=1e-5)


def test_images_are_compared_at_the_size_asked_for():
    real, fake = pictures(4, 0), pictures(1, 1)
    label = torch.zeros(4, dtype=torch.int64)
    larger = [torch.tensor(np.array(Image.fromarray(one.permute(1, 2, 0).numpy()).resize((48, 48), Image.BILINEAR)))
              for one in [*real, *fake]]  # fmt: skip
    larger = torch.stack(larger).permute(0, 3, 1, 2)
    expected = np.mean([ssim_of(x, larger[4]) for x in larger[:4]])
    assert float(nn_ssim(real, label, fake, label[:1], size=48)) == pytest.approx(expected, abs=2e-3)


def test_a_copy_is_found_out():
    real = pictures(3, 0)
    label = torch.zeros(3, dtype=torch.int64)
    copied = nn_ssim(real[:1], label[:1], real[:1], label[:1])
    assert float(copied) == pytest.approx(1, abs=1e-5)
    assert float(nn_ssim(real, label, real[:1], label[:1])) < 0.9  # the mean with the two others


def test_agreement_with_texts():
    texts = torch.eye(3)
    images = torch.tensor([[2.0, 0, 0], [0, 1, 1], [0, 0, -1]])
    score, accuracy = agreement(images, texts, torch.tensor([0, 1, 2]))
    assert score == pytest.approx((1 + 0.5**0.5 - 1) / 3)
    assert accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("which", ["real", "distilled"])
@pytest.mark.parametrize(
    "measure",
    [
        fid,
        kid,
        neighbourhoods,
        lambda a, b: intra_class_coverage(a, ZERO, b, ZERO),
        lambda a, b: nearest_distances(a, ZERO, b, ZERO),
    ],
)
def test_features_that_are_not_finite_are_refused(measure, which):
    given = {"real": torch.ones(8, 4), "distilled": torch.ones(8, 4)}
    given[which][3, 2] = math.nan
    with pytest.raises(ValueError, match=f"features of {which} images are not finite"):
        measure(given["real"], given["distilled"])


@pytest.mark.parametrize("case", ["plain", "copies", "an ulp apart", "nearly equal", "far from 0", "few"])
def test_radii_are_those_of_all_distances(case):
    """To the bit, also where rounding of a matrix product hides which rows are nearest."""
    x = draw(8 if case == "few" else 300, 40, 0).double().relu()
    if case == "copies":
        x[100:160] = x[3]
    elif case == "an ulp apart":
        x[100:160] = x[3]
        moved = torch.from_numpy(np.random.default_rng(0).random(x[100:160].shape) < 0.1)
        x[100:160] = torch.where(moved, torch.nextafter(x[100:160].float(), torch.tensor(9.0)).double(), x[100:160])
    elif case == "nearly equal":
        x = x[:1] + 1e-9 * x
    elif case == "far from 0":
        x = x + 1e8
    for nearest in (1, 5):
        every = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(nearest + 1, dim=1).values
        assert torch.equal(fidelity._radii(x, nearest), every)
