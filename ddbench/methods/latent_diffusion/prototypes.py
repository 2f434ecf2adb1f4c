"""Prototypes: real images, one of each of a class's k-means clusters, in latent space or in other features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.prompts import aggregate
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.types import ImageSet
from ddbench.utils.files import read_json, write_json

GRID = 8
DIGITS = 6  # of unit-length points: k-means tells no nearer ones apart
KMEANS_SEED = 666

Choice = Literal["margin", "nearest"]


@dataclass(frozen=True)
class Prototype:
    """One real image and why it was chosen. Distances are Euclidean, between unit vectors.

    label: its class. cluster: number within the class. row: index into the training split. name: its file.
    size: members of the cluster. intra: distance to its own centre. inter: distance to the nearest other centre, 0 when
    there is no other. margin: inter - alpha * intra.
    """

    label: int
    cluster: int
    row: int
    name: str
    size: int
    margin: float
    intra: float
    inter: float

    def record(self) -> dict:
        """JSON values."""
        return asdict(self)


def embedding(latents: Tensor) -> np.ndarray:
    """Return scaled latent means (n, c, h, w) as unit vectors (n, c * 64): pooled to 8x8, flattened (DPD's release)."""
    return unit_length(F.adaptive_avg_pool2d(latents, GRID).flatten(1))


def unit_length(features: Tensor) -> np.ndarray:
    """Return features (n, d), each divided by its length, as float64."""
    return F.normalize(features, dim=1).numpy().astype(np.float64)


def find_prototypes(
    train: ImageSet,
    points: Callable[[Tensor], np.ndarray],
    ipc: int,
    alpha: float,
    choice: Choice = "margin",
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Prototype], Tensor]:
    """Return `ipc` prototypes of every class, class after class, and each image's cluster in its class, int64 (n,).

    points(rows): unit vectors, float64 (m, d), of the training images at `rows`, int64 (m,). alpha, choice: of
    `representatives`. Raises ValueError for a class with fewer than `ipc` distinct images.
    """
    from sklearn.cluster import KMeans

    check_enough(train, ipc)
    prototypes, owner = [], torch.zeros_like(train.labels)
    for label in progress(range(len(train.classes))):
        rows = train.of_class(label)
        x = points(rows)
        if (distinct := len(np.unique(x.round(DIGITS), axis=0))) < ipc:
            problem = f"{train.classes[label]} has {distinct} distinct images, fewer than {ipc} prototypes"
            raise ValueError(f"{problem}: try --ipc {distinct}")
        fitted = KMeans(ipc, n_init=10, random_state=KMEANS_SEED).fit(x)
        owner[rows] = torch.from_numpy(fitted.labels_).long()
        members = representatives(fitted.transform(x), fitted.labels_, alpha, choice)
        for cluster, (i, intra, inter) in enumerate(members):
            row, size = int(rows[i]), int((fitted.labels_ == cluster).sum())
            name = train.names[row] if train.names else str(row)
            prototypes.append(Prototype(label, cluster, row, name, size, inter - alpha * intra, intra, inter))
    return prototypes, owner


def check_enough(train: ImageSet, ipc: int) -> None:
    """ValueError naming the classes with fewer than `ipc` images."""
    if few := train.fewer_than(ipc):
        least = min(train.counts())
        raise ValueError(
            f"{ipc} prototypes per class need {ipc} images per class, but: {', '.join(few)}; --ipc {least}"
        )


def representatives(
    distances: np.ndarray, owner: np.ndarray, alpha: float, choice: Choice = "margin"
) -> list[tuple[int, float, float]]:
    """Return (index, intra, inter) of one member of each cluster.

    The member has the largest inter - alpha * intra (margin: the DPD release), or the least intra (nearest; the first
    of those equally near, as the two members of a pair are but for rounding).
    distances (n, k) of each point to each centre, owner (n,) the cluster of each point. With one cluster inter is 0.
    """
    chosen = []
    for cluster in range(distances.shape[1]):
        members = np.flatnonzero(owner == cluster)
        intra = distances[members, cluster]
        others = np.delete(distances[members], cluster, axis=1)
        inter = others.min(1) if others.size else np.zeros(len(members))
        best = int(np.argmin(intra.round(DIGITS)) if choice == "nearest" else np.argmax(inter - alpha * intra))
        chosen.append((int(members[best]), float(intra[best]), float(inter[best])))
    return chosen


def save_images(prototypes: list[Prototype], train: ImageSet, folder: Path) -> None:
    """Each prototype as it is in the training split: `<class>/<cluster>.png`."""
    for p in prototypes:
        path = folder / train.classes[p.label] / f"{p.cluster:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[p.row].permute(1, 2, 0).contiguous().numpy()).save(path)


def rows_of(prototypes: list[Prototype]) -> Tensor:
    """Their indices into the training split, int64 (n,)."""
    return torch.tensor([p.row for p in prototypes])


def stored_prototypes(
    stages: Stages, latents: Latents, ipc: int, alpha: float, choice: Choice = "margin"
) -> tuple[list[Prototype], Tensor]:
    """Return the prototypes of this IPC, made once for every seed, and the cluster of every image, int64 (n,).

    The stage holds prototypes.json, clusters.json and an image of each prototype. Its key names the choice only where
    it is not the margin rule, so that stages made before there was a choice stay.
    """
    progress = partial(stages.ctx.progress, desc="prototypes")

    def points(rows: Tensor) -> np.ndarray:
        return embedding(latents.means(rows))

    def make(folder: Path) -> None:
        prototypes, owner = find_prototypes(stages.train, points, ipc, alpha, choice, progress)
        write_json(folder / "prototypes.json", [p.record() for p in prototypes])
        write_json(folder / "clusters.json", owner.tolist())
        save_images(prototypes, stages.train, folder / "images")

    key: dict[str, Any] = {"vae": stages.model.vae_identity, "ipc": ipc, "alpha": alpha}
    key |= {} if choice == "margin" else {"choice": choice}
    folder = stages.shared.stage("prototypes", make, **key)
    prototypes = [Prototype(**record) for record in read_json(folder / "prototypes.json")]
    return prototypes, torch.tensor(read_json(folder / "clusters.json"))


def cluster_captions(
    prototypes: Sequence[Prototype], owner: Tensor, captions: Sequence[str], train: ImageSet
) -> list[str]:
    """The caption that stands for the cluster of each prototype (`aggregate`).

    owner (n,): the cluster of each training image within its class.
    """
    chosen: dict[tuple[int, int], str] = {}
    for label, name in enumerate(train.readable):
        rows = train.of_class(label).tolist()
        found = aggregate([captions[row] for row in rows], [int(owner[row]) for row in rows], name)
        chosen |= {(label, cluster): captions[rows[i]] for cluster, i in enumerate(found)}
    return [chosen[p.label, p.cluster] for p in prototypes]
