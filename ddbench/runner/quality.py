"""How like the real training images a distilled set is: numbers beside its accuracy, one file each in `quality/`.

    fid        FID, KID, precision, recall, density, coverage, all from one network's features
    coverage   DPD's intra-class coverage
    ssim       DPD's NN-SSIM: how near a distilled image is to a copy of a real one
    clip       CLIP score and zero-shot accuracy
    map        where the images lie in the plane in which real features vary most, for `ddbench report`

Features are those of STUDENT/PROTOCOL, trained on the real training split (a stage, made once), or of STUDENT/imagenet.
A network that knows ImageNet sees images at 256 px, whatever the size of the run; another one at the run's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.errors import UserError
from ddbench.runner import teacher
from ddbench.runner.evaluation import progress_bars
from ddbench.store import distilled_set
from ddbench.store.paths import safe
from ddbench.store.records import RunSpec, distilled_digest, train_id
from ddbench.types import Dataset
from ddbench.utils.files import Stopwatch, digest, make_once, read_json, write_json
from ddbench.utils.provenance import describe_environment
from evaluators import VERSION, fidelity, pretrained
from evaluators.augment import resize
from evaluators.catalog import STUDENTS
from evaluators.protocols import protocol
from evaluators.students import Student, build, features

if TYPE_CHECKING:
    from ddbench.runner.plan import ExecutionSettings

log = logging.getLogger("ddbench")
METRICS = ("fid", "coverage", "ssim", "clip", "map")
FEATURES = {"fid": "inception_v3/fid@1", "coverage": "resnet18/imagenet", "map": "resnet18/imagenet"}  # DPD's release
POINTS = 40  # real images of a class that a map shows
LARGE, MIDDLE = 256, 224  # pixels that networks which know ImageNet are given; the crop of those used as they are


@dataclass(frozen=True)
class QualityRequest:
    """Which of METRICS; whose features instead of the metrics' own; which CLIP model (folder or hub id).

    UserError for features that are nobody's.
    """

    metrics: tuple[str, ...]
    features: str | None = None
    clip: str = ""

    def __post_init__(self) -> None:
        for metric in self.metrics:
            self.measured_with(metric)

    def measured_with(self, metric: str) -> str:
        """What a metric is measured with, in words that mean one thing: a protocol with its version, a whole path."""
        if metric == "ssim":
            return str(LARGE)
        if metric == "clip":
            return str(Path(self.clip).resolve()) if Path(self.clip).is_dir() else self.clip
        return _whole(self.features or FEATURES[metric])


@dataclass(frozen=True)
class MeasuredRun:
    """A run's distilled set, and the dataset (loaded at a size by `load`) that it is compared with."""

    folder: Path
    spec: RunSpec
    load: Callable[[int], Dataset]
    device: torch.device
    settings: ExecutionSettings


@dataclass(frozen=True)
class Extractor:
    """A network, what images go through first, and what says which weights it has."""

    network: Student
    prepare: Callable[[Tensor], Tensor]
    weights: str


def _whole(words: str) -> str:
    """STUDENT/PROTOCOL with the protocol's version; UserError for what is neither that nor STUDENT/imagenet."""
    student, slash, row = words.partition("/")
    if not slash or student not in STUDENTS:
        raise UserError(f"--features {words} is neither STUDENT/PROTOCOL nor STUDENT/imagenet; {', '.join(STUDENTS)}")
    try:
        return words if row == "imagenet" else f"{student}/{protocol(row).title}"
    except ValueError as error:
        raise UserError(f"--features {words}: {error}") from None


def measure(subject: MeasuredRun, metric: str, words: str) -> Path:
    """Return the file of a metric of the present distilled set; measure it if it is missing.

    UserError where weights cannot be had, ValueError for a distilled set that somebody changed.
    """
    path = subject.folder / "quality" / _name(metric, words)
    if not path.exists() or read_json(path)["content"] != distilled_digest(subject.folder):
        write_json(path, _measured(subject, metric, words))
    return path


def _name(metric: str, words: str) -> str:
    """Two models of one name in two folders are two measurements; so are two versions of the judge."""
    return (
        f"{metric}-{safe(Path(words).name if Path(words).is_absolute() else words)}-{digest([words, VERSION])[:6]}.json"
    )


def _measured(subject: MeasuredRun, metric: str, words: str) -> dict[str, Any]:
    log.info("%s: %s by %s", subject.folder, metric, words)
    watch, pictures = Stopwatch(), distilled_set.read(subject.folder / "distilled")
    weights, values = _MEASURES[metric](subject, pictures, words)
    how = {"metric": metric, "by": words, "weights": weights, "values": values, "seconds": watch.seconds}
    return how | _provenance(subject, pictures)


def _provenance(subject: MeasuredRun, pictures: distilled_set.Pictures) -> dict[str, Any]:
    return {
        "schema": 1,
        "run": subject.spec.digest,
        "content": pictures.content(),
        "distilled_images": len(pictures.labels),
        "real_images": len(subject.load(subject.spec.size).train.labels),
        **describe_environment(subject.device),
    }


def _fid(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _both(subject, pictures, words)
    values = {"fid": fidelity.fid(real, fake), "kid": fidelity.kid(real, fake)}
    near = fidelity.neighbourhoods(real, fake)
    return weights, values | (asdict(near) if near else {})


def _coverage(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _both(subject, pictures, words)
    labels = subject.load(subject.spec.size).train.labels
    by_class = fidelity.intra_class_coverage(real, labels, fake, torch.from_numpy(pictures.labels))
    mean = sum(by_class) / len(by_class)
    return weights, {"coverage": mean, "per_class": dict(zip(pictures.classes, by_class, strict=True))}


def _map(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, dict[str, Any]]:
    weights, real, fake = _both(subject, pictures, words)
    mean, axes, share = fidelity.principal_plane(real)
    values: dict[str, Any] = {"explained": share}
    sides = (("real", real, subject.load(subject.spec.size).train.labels), ("distilled", fake, pictures.labels))
    for side, found, labels in sides:
        points, of = ((found.double() - mean) @ axes).tolist(), torch.as_tensor(labels)
        shown = [torch.nonzero(of == label).flatten() for label in range(len(pictures.classes))]
        shown = [rows[:: -(-len(rows) // POINTS)] for rows in shown] if side == "real" else shown
        values[side] = {name: [points[i] for i in rows] for name, rows in zip(pictures.classes, shown, strict=True)}
    return weights, values


def _ssim(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, dict[str, Any]]:
    train, fake = subject.load(subject.spec.size).train, pictures.to_tensor()
    found = []
    for label in progress_bars(subject.settings.quiet)(
        range(len(train.classes)), "NN-SSIM, class by class", len(train.classes)
    ):
        real, own = train.images[train.labels == label], fake[torch.from_numpy(pictures.labels == label)]
        one = [torch.zeros(len(part), dtype=torch.int64) for part in (real, own)]
        found.append(
            fidelity.nn_ssim(real.to(subject.device), one[0], own.to(subject.device), one[1], int(words)).cpu()
        )
    every = torch.cat(found).double()
    return "", {"nn_ssim": float(every.mean()), "std": float(every.std(correction=0)), "largest": float(every.max())}


def _clip(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, dict[str, Any]]:
    from evaluators import clip

    try:
        model = clip.load(words, subject.device)
    except (OSError, UnpicklingError) as error:
        raise UserError(f"there is no CLIP model {words!r} ({error}); --clip takes a folder or a hub id") from None
    texts = clip.embed_texts(
        model, [clip.PROMPT.format(name) for name in subject.load(subject.spec.size).train.readable]
    )
    labels = torch.from_numpy(pictures.labels)
    score, accuracy = fidelity.agreement(clip.embed_images(model, pictures.to_tensor()), texts, labels)
    return clip.digest(model), {"clip_score": score, "zero_shot_accuracy": accuracy}


_MEASURES: Mapping[str, Callable] = {"fid": _fid, "coverage": _coverage, "ssim": _ssim, "clip": _clip, "map": _map}


def _both(subject: MeasuredRun, pictures: distilled_set.Pictures, words: str) -> tuple[str, Tensor, Tensor]:
    """The weights' name, and features of the real training images and of the distilled ones."""
    with_what = _extractor(subject, words)
    train = subject.load(subject.spec.size).train
    read = partial(features, with_what.network, device=subject.device, batch=64, prepare=with_what.prepare)
    where = _train(subject, subject.spec.size)
    key = {"features": words, "weights": with_what.weights, "train": where, "evaluators": VERSION}
    folder = subject.settings.data_paths.shared / f"features-{digest(key)[:16]}"
    make_once(folder, lambda place: save_file({"real": read(train.images)}, place / "features.safetensors"))
    return with_what.weights, load_file(folder / "features.safetensors")["real"], read(pictures.to_tensor())


def _extractor(subject: MeasuredRun, words: str) -> Extractor:
    student, _, row = words.partition("/")
    try:
        return _published(student) if row == "imagenet" else _trained(subject, student, row)
    except (ValueError, pretrained.WeightsError) as error:
        raise UserError(
            f"features {words}: {error}; --features has others, resnet18/quick@1 needs no download"
        ) from None


def _published(student: str) -> Extractor:
    network = build(student, MIDDLE, 2, 0, "imagenet")
    weights = pretrained.sha256(pretrained.weights_file(student))
    return Extractor(network, partial(resize, size=LARGE, crop=MIDDLE), weights)


def _trained(subject: MeasuredRun, student: str, title: str) -> Extractor:
    size = LARGE if protocol(title).init == "imagenet" else subject.spec.size
    data, shared = subject.load(size), subject.settings.data_paths.shared
    key, progress = _train(subject, size), progress_bars(subject.settings.quiet)
    found = teacher.get_teacher((student, title), data.train, key, shared, subject.device, progress)
    return Extractor(teacher.network(found, size), partial(resize, size=size), found.title)


def _train(subject: MeasuredRun, size: int) -> str:
    """What identifies the training images at a size."""
    return train_id(replace(subject.spec, size=size), subject.load(size))
