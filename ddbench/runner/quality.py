"""Compare a distilled set with the real training images: one file for each metric in `quality/`.

fid        FID, KID, precision, recall, density, coverage, all from one network's features
coverage   DPD's intra-class coverage
ssim       DPD's NN-SSIM: similarity of a distilled image to the nearest real one
clip       CLIP score and zero-shot accuracy
map        positions of the images in the plane of largest variance of real features, for `ddbench report`
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddbench.errors import UserError
from ddbench.runner.measured_run import LARGE, MeasuredRun, features_title, find_extractor, real_features
from ddbench.store import distilled_set
from ddbench.store.paths import safe
from ddbench.store.records import distilled_digest
from ddbench.utils.files import Stopwatch, digest, read_json, write_json
from ddbench.utils.progress import progress_bars
from ddbench.utils.provenance import describe_environment
from evaluators import VERSION, fidelity
from evaluators.model_checks import ModelError

if TYPE_CHECKING:
    from evaluators.clip import Clip

log = logging.getLogger("ddbench")
FEATURES = {"fid": "inception_v3/fid@1", "coverage": "resnet18/imagenet", "map": "resnet18/imagenet"}  # DPD's release
MOST_PAIRED = 50_000  # real images that KID and nearest neighbours compare with one another: CIFAR-10 has as many
POINTS = 40  # real images of a class that a map shows


@dataclass(frozen=True)
class QualityRequest:
    """The metrics to measure. Raises UserError for an unknown STUDENT/PROTOCOL.

    metrics: some of METRICS.
    features: STUDENT/PROTOCOL or STUDENT/imagenet; None for the default of each metric.
    clip: CLIP model, a folder or hub id.
    """

    metrics: tuple[str, ...]
    features: str | None = None
    clip: str = ""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            self.measured_with(metric)

    def measured_with(self, metric: str) -> str:
        """Return the source of a metric's features without ambiguity: a protocol with its version, an absolute path."""
        if metric == "clip":
            return str(Path(self.clip).resolve()) if Path(self.clip).is_dir() else self.clip
        if metric not in FEATURES:
            return str(LARGE)  # metrics of pixels: the size at which they compare
        return features_title(self.features or FEATURES[metric])


def measure(run: MeasuredRun, metric: str, source: str) -> Path:
    """Return the file of a metric of the present distilled set; measure it if it is missing.

    source: from QualityRequest.measured_with. Raises UserError for missing weights, ValueError for a distilled set that
    was changed.
    """
    # two models of one name in two folders are two measurements; so are two versions of the evaluators
    title = safe(Path(source).name if Path(source).is_absolute() else source)
    path = run.folder / "quality" / f"{metric}-{title}-{digest([source, VERSION])[:6]}.json"
    if path.exists() and read_json(path)["content"] == distilled_digest(run.folder):
        return path
    log.info("%s: %s by %s", run.folder, metric, source)
    watch, pictures = Stopwatch(), distilled_set.read(run.folder / "distilled")
    weights, values = _MEASURES[metric](run, pictures, source)
    record = {
        "schema": 1,
        "metric": metric,
        "by": source,
        "weights": weights,
        "values": values,
        "seconds": watch.seconds,
        "run": run.spec.digest,
        "content": pictures.content(),
        "distilled_images": len(pictures.labels),
        "real_images": len(run.data.train.labels),
        **describe_environment(run.device),
    }
    write_json(path, record)
    return path


def _fid(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _real_and_distilled(run, pictures, source)
    return weights, feature_metrics(real, fake)


def feature_metrics(real: Tensor, fake: Tensor) -> dict[str, Any]:
    """Return FID, KID and the metrics of nearest neighbours of features (n, d) and (m, d).

    The time of all but FID grows with n squared, so they see at most MOST_PAIRED real images: every k-th, whose number
    is then `paired_images`.
    """
    part = real[:: -(-len(real) // MOST_PAIRED)]
    values: dict[str, Any] = {"fid": fidelity.fid(real, fake), "kid": fidelity.kid(part, fake)}
    near = fidelity.neighbourhoods(part, fake)
    return values | (asdict(near) if near else {}) | ({"paired_images": len(part)} if len(part) < len(real) else {})


def _coverage(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _real_and_distilled(run, pictures, source)
    labels = run.data.train.labels
    by_class = fidelity.intra_class_coverage(real, labels, fake, torch.from_numpy(pictures.labels))
    mean = sum(by_class) / len(by_class)
    return weights, {"coverage": mean, "per_class": dict(zip(pictures.classes, by_class, strict=True))}


def _map(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _real_and_distilled(run, pictures, source)
    mean, axes, share = fidelity.principal_plane(real)
    values: dict[str, Any] = {"explained": share}
    sides = (("real", real, run.data.train.labels), ("distilled", fake, pictures.labels))
    for side, vectors, side_labels in sides:
        points, labels = ((vectors.double() - mean) @ axes).tolist(), torch.as_tensor(side_labels)
        rows = [torch.nonzero(labels == label).flatten() for label in range(len(pictures.classes))]
        if side == "real":  # at most POINTS of each class
            rows = [of_class[:: -(-len(of_class) // POINTS)] for of_class in rows]
        values[side] = {
            name: [points[i] for i in of_class] for name, of_class in zip(pictures.classes, rows, strict=True)
        }
    return weights, values


def _ssim(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, dict[str, Any]]:
    train, fake = run.data.train, pictures.to_tensor()
    progress, classes = progress_bars(run.settings.quiet), len(train.classes)
    scores = []
    for label in progress(range(classes), "NN-SSIM, class by class", classes):
        real, distilled = train.images[train.labels == label], fake[torch.from_numpy(pictures.labels == label)]
        one_class = [torch.zeros(len(images), dtype=torch.int64) for images in (real, distilled)]
        real, distilled = real.to(run.device), distilled.to(run.device)
        scores.append(fidelity.nn_ssim(real, one_class[0], distilled, one_class[1], int(source)).cpu())
    ssim = torch.cat(scores).double()
    return "", {"nn_ssim": float(ssim.mean()), "std": float(ssim.std(correction=0)), "largest": float(ssim.max())}


def load_clip(source: str, device: torch.device) -> Clip:
    """Load a CLIP model. Raises UserError if there is none, or it is not whole."""
    from evaluators import clip

    try:
        return clip.load(source, device)
    except ModelError as error:
        raise UserError(f"the CLIP model {source} cannot be used: {error}\n--clip takes a folder or a hub id") from None


def _clip(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, dict[str, Any]]:
    from evaluators import clip

    model = load_clip(source, run.device)
    readable = run.data.train.readable
    texts = [clip.PROMPT.format(name) for name in readable]
    try:
        long = clip.check_texts(model, texts)
    except ValueError as error:
        raise UserError(f"{error}: give the class folders shorter or other names") from None
    if long:
        log.warning("the CLIP model cuts %d of %d texts, of up to %d tokens", len(long), len(texts), max(long.values()))
    embedded = clip.embed_texts(model, texts)
    labels = torch.from_numpy(pictures.labels)
    score, accuracy = fidelity.agreement(clip.embed_images(model, pictures.to_tensor()), embedded, labels)
    return clip.digest(model), {"clip_score": score, "zero_shot_accuracy": accuracy}


_MEASURES: Mapping[str, Callable] = {"fid": _fid, "coverage": _coverage, "ssim": _ssim, "clip": _clip, "map": _map}


def _real_and_distilled(run: MeasuredRun, pictures: distilled_set.Pictures, source: str) -> tuple[str, Tensor, Tensor]:
    """Return the identity of the weights, features of the real training images, and those of the distilled images."""
    extractor = find_extractor(run, source)
    return extractor.weights, real_features(run, source, extractor), extractor.read(pictures.to_tensor(), run.device)
