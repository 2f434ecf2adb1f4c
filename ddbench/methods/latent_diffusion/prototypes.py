"""Prototypes: per class, k-means in latent space; the member with the largest margin stands for its cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

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
    """Scaled latent means (n, c, h, w) -> unit vectors (n, c * 64): pooled to 8x8, flattened (the DPD release)."""
    pooled = F.adaptive_avg_pool2d(latents, GRID).flatten(1)
    return F.normalize(pooled, dim=1).numpy().astype(np.float64)


def find_prototypes(
    train: ImageSet, latents: Tensor, ipc: int, alpha: float, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[list[Prototype], Tensor]:
    """`ipc` prototypes of every class, class after class, and the cluster within its class of every image, int64 (n,).

    latents: the scaled means of `train`.
    """
    check_enough(train, ipc)
    found, owner = [], torch.zeros_like(train.labels)
    for label in progress(range(len(train.classes))):
        rows = train.of_class(label)
        points = embedding(latents[rows])
        if (distinct := len(np.unique(points.round(DIGITS), axis=0))) < ipc:
            said = f"{train.classes[label]} has {distinct} distinct images, fewer than {ipc} prototypes"
            raise ValueError(f"{said}: try --ipc {distinct}")
        of_class, clusters = _of_class(label, rows, points, train.names, ipc, alpha)
        found += of_class
        owner[rows] = clusters
    return found, owner


def check_enough(train: ImageSet, ipc: int) -> None:
    """ValueError naming the classes with fewer than `ipc` images."""
    if few := train.fewer_than(ipc):
        least = min(train.counts())
        raise ValueError(
            f"{ipc} prototypes per class need {ipc} images per class, but: {', '.join(few)}; --ipc {least}"
        )


def _of_class(
    label: int, rows: Tensor, points: np.ndarray, names: tuple[str, ...], k: int, alpha: float
) -> tuple[list[Prototype], Tensor]:
    from sklearn.cluster import KMeans

    fitted = KMeans(k, n_init=10, random_state=KMEANS_SEED).fit(points)
    chosen = []
    members = representatives(fitted.transform(points), fitted.labels_, alpha)
    for cluster, (i, intra, inter) in enumerate(members):
        row = int(rows[i])
        chosen.append(Prototype(
            label, cluster, row, names[row] if names else str(row), int((fitted.labels_ == cluster).sum()),
            inter - alpha * intra, intra, inter,
        ))  # fmt: skip
    return chosen, torch.from_numpy(fitted.labels_).long()


def representatives(distances: np.ndarray, owner: np.ndarray, alpha: float) -> list[tuple[int, float, float]]:
    """Per cluster, (index, intra, inter) of the member maximising inter - alpha * intra (the DPD release's margin).

    distances (n, k) of each point to each centre, owner (n,) the cluster of each point. With one cluster inter is 0.
    """
    found = []
    for cluster in range(distances.shape[1]):
        members = np.flatnonzero(owner == cluster)
        intra = distances[members, cluster]
        others = np.delete(distances[members], cluster, axis=1)
        inter = others.min(1) if others.size else np.zeros(len(members))
        best = int(np.argmax(inter - alpha * intra))
        found.append((int(members[best]), float(intra[best]), float(inter[best])))
    return found


def save_images(prototypes: list[Prototype], train: ImageSet, folder: Path) -> None:
    """Each prototype as it is in the training split: `<class>/<cluster>.png`."""
    for p in prototypes:
        path = folder / train.classes[p.label] / f"{p.cluster:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[p.row].permute(1, 2, 0).contiguous().numpy()).save(path)


def rows_of(prototypes: list[Prototype]) -> Tensor:
    """Their indices into the training split, int64 (n,)."""
    return torch.tensor([p.row for p in prototypes])


def stored_prototypes(stages: Stages, latents: Latents, ipc: int, alpha: float) -> tuple[list[Prototype], Tensor]:
    """Return the prototypes of this IPC, made once for every seed, and the cluster of every image, int64 (n,).

    The stage holds prototypes.json, clusters.json and an image of each prototype.
    """
    progress = partial(stages.ctx.progress, desc="prototypes")

    def make(folder: Path) -> None:
        found, owner = find_prototypes(stages.train, latents.means(), ipc, alpha, progress)
        write_json(folder / "prototypes.json", [p.record() for p in found])
        write_json(folder / "clusters.json", owner.tolist())
        save_images(found, stages.train, folder / "images")

    folder = stages.shared.stage("prototypes", make, vae=stages.model.vae_identity, ipc=ipc, alpha=alpha)
    found = [Prototype(**record) for record in read_json(folder / "prototypes.json")]
    return found, torch.tensor(read_json(folder / "clusters.json"))


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
