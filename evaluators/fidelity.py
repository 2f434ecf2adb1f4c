"""Measure how similar distilled and real images are, from features (n, d) in float64 or from pixels in float32.

Real images are those of the training split. None of these numbers ranks methods: accuracy does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor

from evaluators.augment import resize

NEAREST = 5  # neighbours of precision, recall, density, coverage; most similar real images of NN-SSIM
WINDOW = 11  # px, of SSIM's Gaussian, whose deviation is 1.5
ROWS = 2048  # of a matrix of distances that are computed at once
NEAR_ROWS, SPARE = 256, 16  # rows whose neighbours are found at once; candidates beyond the neighbours
BLOCK = 65_536  # rows of features that are converted to float64 at once


def fid(real: Tensor, fake: Tensor) -> float:
    """Compute the Fréchet distance of Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with ddof 1. With S = R^T R for each, the eigenvalues of
    S1 S2 are the squared singular values of R1 R2^T, so the last trace is their sum: this needs no matrix root, and no
    correction of rounding for fewer images than features. Equal features have distance 0. The distance is biased by the
    number of images: compare only equal numbers. Raises ValueError for fewer than two images.
    """
    _require_finite(real, fake)
    (m1, r1), (m2, r2) = _gaussian(real, "real"), _gaussian(fake, "distilled")
    cross = torch.linalg.matrix_norm(r1 @ r2.T, "nuc")
    return float((m1 - m2).square().sum() + r1.square().sum() + r2.square().sum() - 2 * cross)


def _require_finite(real: Tensor, fake: Tensor) -> None:
    """Raise ValueError for a feature that is not finite: the metrics silently ignore some non-finite values."""
    for which, features in (("real", real), ("distilled", fake)):
        if not all(torch.isfinite(part).all() for part in features.split(BLOCK)):
            raise ValueError(f"features of {which} images are not finite")


def _gaussian(features: Tensor, which: str) -> tuple[Tensor, Tensor]:
    """Return the mean (d,) and a root R, at most d rows or those of a block, of the covariance R^T R."""
    n = len(features)
    if n < 2:
        raise ValueError(f"FID needs two {which} images, not {n}")
    parts = features.split(BLOCK)
    mean = parts[0].double().mean(0) if len(parts) == 1 else reduce(torch.add, (p.double().sum(0) for p in parts)) / n
    root = features.new_empty(0, features.shape[1], dtype=torch.float64)
    for part in parts:  # R of the rows so far has the covariance of all of them
        root = torch.cat([root, (part.double() - mean) / (n - 1) ** 0.5])
        root = torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root
    return mean, root


def kid(real: Tensor, fake: Tensor) -> float:
    """Compute the kernel distance: unbiased squared MMD with the kernel (x.y / d + 1)^3.

    See Binkowski et al. 2018, arXiv:1801.01401. It is computed over all images at once, not over subsets. It may be
    below 0, and its mean is 0 for sets of one distribution and any number. Raises ValueError for fewer than two images.
    """
    _require_finite(real, fake)
    n, m = len(real), len(fake)
    if min(n, m) < 2:
        raise ValueError(f"KID needs two images of each kind, not {n} real and {m} distilled")
    within = torch.zeros((), dtype=torch.float64, device=real.device)
    for x in (real, fake):
        diagonal = (x.double().square().sum(1) / x.shape[1] + 1).pow(3).sum()
        within = within + (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))
    return float(within - 2 * _kernel_sum(real, fake) / (n * m))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    y = y.double()
    parts: Iterator[Tensor] = (  # in place: a matrix of products at a time, not four
        (part.double() @ y.T).div_(y.shape[1]).add_(1).pow_(3).sum() for part in x.split(ROWS)
    )
    return reduce(torch.add, parts)


def intra_class_coverage(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> tuple[float, ...]:
    """Compute, by class, the mean over real images of the cosine to the nearest distilled image of the class.

    Larger values mean better coverage. As in DPD's release, which reports their mean (features there: ImageNet's
    ResNet-18). Raises ValueError for a class without images of both kinds.
    """
    _require_finite(real, fake)
    pairs = _by_class(real, real_labels, fake, fake_labels)
    unit = ((F.normalize(part.double(), dim=1) for part in pair) for pair in pairs)
    return tuple(float((a @ b.T).amax(1).clamp(-1, 1).mean()) for a, b in unit)


def principal_plane(real: Tensor) -> tuple[Tensor, Tensor, float]:
    """Find the plane in which features (n, d) vary most.

    The largest component of each direction is positive, so that two calls draw the same picture. Returns the mean (d,),
    two directions (d, 2) and the plane's share of the variance, in float64.
    """
    _require_finite(real, real)
    if len(real) > BLOCK:
        mean, root = _gaussian(real, "real")
        covariance = root.T @ root
    else:
        mean = real.double().mean(0)
        covariance = torch.cov((real.double() - mean).T)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return mean, axes, float(values[-2:].sum() / values.sum().clamp_min(1e-300))


@dataclass(frozen=True)
class Neighbourhoods:
    """Metrics of nearest neighbours.

    Kynkaanniemi et al. 2019, arXiv:1904.06991 (precision, recall); Naeem et al. 2020, arXiv:2002.09797 (the others).

    precision: share of distilled images within a real image's neighbourhood.
    recall: share of real images within a distilled image's neighbourhood.
    density: mean number of real neighbourhoods around a distilled image, divided by `nearest`; may exceed 1.
    coverage: share of real images with a distilled image in their neighbourhood.
    nearest: number of neighbours.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    nearest: int


def neighbourhoods(real: Tensor, fake: Tensor, nearest: int = NEAREST) -> Neighbourhoods | None:
    """Compute the metrics over all classes. Few images allow fewer neighbours than `nearest`; under three give None."""
    _require_finite(real, fake)
    nearest = min(nearest, len(real) - 2, len(fake) - 2)
    if nearest < 1:
        return None
    real, fake = real.double(), fake.double()
    around_real, around_fake = _radii(real, nearest), _radii(fake, nearest)
    inside = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = [], []
    for part, radius in zip(real.split(ROWS), around_real.split(ROWS), strict=True):
        distance = _distances(part, fake)
        within = distance < radius[:, None]
        inside += within.sum(0)
        covered.append(within.any(1))
        recalled.append((distance < around_fake).any(1))
    recall, coverage = (float(torch.cat(parts).double().mean()) for parts in (recalled, covered))
    precision, density = float((inside > 0).double().mean()), float(inside.double().mean() / nearest)
    return Neighbourhoods(precision, recall, density, coverage, nearest)


def nearest_distances(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute, by class, the mean distance to the nearest other image, among distilled images and among real images.

    Distances shrink as images become more, so real images are compared in groups of as many as the class has distilled
    ones: every g-th image, where g is the number of whole groups. The mean over the groups is returned. Samples that
    repeat one another have small distances; the ratio of the two is 1 where they differ as real images do.

    real, fake: features or flattened pixels, (n, d) and (m, d). Raises ValueError for a class with fewer than two
    distilled images, or fewer real images than distilled ones.
    """
    _require_finite(real, fake)
    among_fake, among_real = [], []
    for label, (a, b) in enumerate(_by_class(real, real_labels, fake, fake_labels)):
        a, b = a.double(), b.double()
        groups = len(a) // len(b)
        if len(b) < 2 or groups == 0:
            raise ValueError(f"class {label} has {len(b)} distilled images, not 2 to {len(a)} (its real images)")
        among_fake.append(float(_radii(b, 1).mean()))
        among_real.append(sum(float(_radii(a[i::groups][: len(b)], 1).mean()) for i in range(groups)) / groups)
    return tuple(among_fake), tuple(among_real)


def _radii(x: Tensor, nearest: int) -> Tensor:
    """Return the distance (n,) of each row to its k-th nearest other row, k = `nearest`.

    A matrix product finds a few more than k candidates; their distances are computed without one. That takes a tenth of
    the time of all distances, for the same numbers: where rounding may have hidden a neighbour, as among many rows that
    are nearly equal, all distances of the row are computed.
    """
    norms, few = x.square().sum(1), min(nearest + 1 + SPARE, len(x))
    rounding = 4 * x.shape[1] * torch.finfo(x.dtype).eps * norms.max()
    radii = []
    for part, own in zip(x.split(NEAR_ROWS), norms.split(NEAR_ROWS), strict=True):
        squared, columns = torch.addmm(norms, part, x.T, alpha=-2).add_(own[:, None]).topk(few, largest=False)
        of_part = _distances(part[:, None], x[columns])[:, 0].kthvalue(nearest + 1, dim=1).values
        unsure = ~(squared[:, -1] - rounding > of_part.square())
        if few < len(x) and unsure.any():
            of_part[unsure] = _distances(part[unsure], x).kthvalue(nearest + 1, dim=1).values
        radii.append(of_part)
    return torch.cat(radii)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute distances without matrix products, whose rounding makes equal distances differ."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def nn_ssim(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, size: int = 256) -> Tensor:
    """Compute the mean of each distilled image's NEAREST highest SSIMs among real images of its class, (m,).

    Smaller values mean less copying. real, fake: uint8 (n, 3, h, w), resized to `size`. DPD's release has 256 px and
    reports mean and standard deviation with ddof 0. SSIM as there: Gaussian window of 11 pixels, deviation 1.5, *zero
    padding*, mean over colours and pixels; libraries crop or reflect at the border and give other values. In the order
    of the classes. Raises ValueError for a class without images of both kinds.
    """
    means = []
    for a, b in _by_class(real, real_labels, fake, fake_labels):
        distilled = _zero_padded(resize(b, size))
        similar = torch.cat([_similarities(_zero_padded(resize(part, size)), distilled) for part in a.split(16)], dim=1)
        means.append(similar.topk(min(NEAREST, len(a)), dim=1).values.mean(1))
    return torch.cat(means)


def _similarities(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the SSIM (Wang et al. 2004) of each distilled with each real image, both zero-padded, (m, n)."""
    pairs = ((real, one.expand_as(real).contiguous()) for one in fake)
    return torch.stack([ssim(*pair, WINDOW, eps=0.0, padding="valid").mean((1, 2, 3)) for pair in pairs])


def _zero_padded(images: Tensor) -> Tensor:
    """Surround images with as many zeros as the window reaches over their border; by itself kornia reflects them."""
    return F.pad(images, [WINDOW // 2] * 4)


def _by_class(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the (real, distilled) rows of each class. Raises ValueError for a class without either."""
    for label in range(int(torch.cat([real_labels, fake_labels]).max()) + 1):
        pair = real[real_labels == label], fake[fake_labels == label]
        for which, part in zip(("real", "distilled"), pair, strict=True):
            if len(part) == 0:
                raise ValueError(f"there is no {which} image of class {label}")
        yield pair


def agreement(images: Tensor, texts: Tensor, labels: Tensor) -> tuple[float, float]:
    """Compute CLIP score and zero-shot accuracy from embeddings of images (n, d) and class texts (c, d), labels (n,).

    The score is the mean cosine of an image and its class's text, neither clamped nor multiplied; the accuracy is the
    share of images whose nearest text is their class's.
    """
    cosines = F.normalize(images.double(), dim=1) @ F.normalize(texts.double(), dim=1).T
    of_label = cosines.gather(1, labels[:, None])
    return float(of_label.mean()), float((cosines.argmax(1) == labels).double().mean())
