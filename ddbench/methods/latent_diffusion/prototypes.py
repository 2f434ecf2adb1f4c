"""Prototypes: one real image of each of a class's k-means clusters, in latent space or in other features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.prompts import representative_captions
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.ridge import ridge_choice
from ddbench.methods.shared.spaces import FeatureSpace
from ddbench.methods.shared.validation import check_enough
from ddbench.types import ImageSet
from ddbench.utils.files import read_json, write_json
from ddbench.utils.images import to_array
from ddbench.utils.limits import LARGEST_INDEX

GRID = 8
DIGITS = 6  # of unit vectors: k-means tells no nearer ones apart
KMEANS_SEED = 666

Choice = Literal["margin", "nearest", "ridge"]
CHOICE = (  # meaning of the setting that chooses one of them
    "member that represents a cluster: the one of the largest margin, distance to the nearest other centre - alpha x "
    "distance to its own (margin, DPD's rule); the one nearest the centre (nearest); or the one of those members that "
    "together teach a ridge classifier the training images best (ridge; not with latents)"
)


@dataclass(frozen=True)
class Prototype:
    """A real image and the reason for its choice. Distances are Euclidean, between unit vectors.

    label: its class.
    cluster: its cluster's number within the class.
    row: its index in the training split.
    name: its file.
    size: number of members of the cluster.
    margin: inter - alpha * intra.
    intra: distance to its own centre.
    inter: distance to the nearest other centre, 0 when there is none.
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
        """Return the fields as JSON values."""
        return asdict(self)


def embedding(latents: Tensor) -> np.ndarray:
    """Return scaled latent means (n, c, h, w) as unit vectors (n, c * 64): pooled to 8x8, flattened (DPD's release)."""
    return as_points(F.normalize(F.adaptive_avg_pool2d(latents, GRID).flatten(1), dim=1))


def as_points(x: Tensor) -> np.ndarray:
    """Return vectors (n, d) as float64, in which scikit-learn clusters."""
    return x.numpy().astype(np.float64)


def find_prototypes(
    train: ImageSet,
    points: Callable[[Tensor], np.ndarray],
    ipc: int,
    alpha: float,
    choice: Choice = "margin",
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Prototype], Tensor]:
    """Return `ipc` prototypes of every class, class after class, and each image's cluster in its class, int64 (n,).

    points: rows int64 (m,) of the training split -> their unit vectors, float64 (m, d).
    alpha, choice: of `representatives`.

    Raises ValueError for a class with fewer than `ipc` distinct images.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    check_enough(train, ipc, "prototypes")
    prototypes, owner = [], torch.zeros_like(train.labels)
    for label in progress(range(len(train.classes))):
        rows = train.of_class(label)
        x = points(rows)
        if (distinct := len(np.unique(x.round(DIGITS), axis=0))) < ipc:
            problem = f"{train.classes[label]} has {distinct} distinct images, fewer than {ipc} prototypes"
            raise ValueError(f"{problem}: try --ipc {distinct}")
        with warnings.catch_warnings():  # points that differ by less than DIGITS were refused above
            warnings.simplefilter("ignore", ConvergenceWarning)
            clustering = KMeans(ipc, n_init=10, random_state=KMEANS_SEED).fit(x)
        owner[rows] = torch.from_numpy(clustering.labels_).long()
        members = representatives(clustering.transform(x), clustering.labels_, alpha, choice)
        for cluster, (i, intra, inter) in enumerate(members):
            row, size = int(rows[i]), int((clustering.labels_ == cluster).sum())
            name = train.names[row] if train.names else str(row)
            prototypes.append(Prototype(label, cluster, row, name, size, inter - alpha * intra, intra, inter))
    return prototypes, owner


def check_choice(features: str, choice: Choice) -> None:
    """Raise ValueError for the ridge rule in latents, where it was not tried."""
    if features == "latents" and choice == "ridge":
        raise ValueError("choice=ridge compares features of networks: set features=few-shot or features=network")


def prototypes_in_space(
    train: ImageSet, space: FeatureSpace, ipc: int, alpha: float, choice: Choice, progress: Callable
) -> tuple[list[Prototype], Tensor]:
    """Find prototypes (`find_prototypes`) in a space of features. The cluster of an image without features is -1."""
    count = len(train.labels)
    if len(space.rows) < count:
        train = train.rows(space.rows)
    bar = partial(progress, desc="prototypes")
    start: Choice = "nearest" if choice == "ridge" else choice
    prototypes, owner = find_prototypes(train, lambda rows: as_points(space.x[rows]), ipc, alpha, start, bar)
    if choice == "ridge":
        prototypes = ridge_prototypes(prototypes, owner, train, space.x, alpha)
    all_owners = torch.full((count,), -1)
    all_owners[space.rows] = owner
    return [replace(p, row=int(space.rows[p.row])) for p in prototypes], all_owners


def ridge_prototypes(
    prototypes: list[Prototype], owner: Tensor, train: ImageSet, x: Tensor, alpha: float
) -> list[Prototype]:
    """Return other members of the clusters, which together teach a ridge classifier best (`ridge_choice`).

    x: (n, d), features of the training images, of length 1. owner: the cluster of each image within its class.
    """
    members = [torch.where((train.labels == p.label) & (owner == p.cluster))[0] for p in prototypes]
    slots = [torch.cat([rows_of([p]), rows[rows != p.row]]) for p, rows in zip(prototypes, members, strict=True)]
    chosen = ridge_choice(x, train.labels, slots)
    centres = torch.stack([x[rows].mean(0) for rows in members])
    labels = torch.tensor([p.label for p in prototypes])
    others = []
    for i, (p, row) in enumerate(zip(prototypes, chosen.tolist(), strict=True)):
        distances = (x[row] - centres).norm(dim=1)
        of_class = (labels == p.label) & (torch.arange(len(labels)) != i)
        intra, inter = float(distances[i]), float(distances[of_class].min()) if of_class.any() else 0.0
        name = train.names[row] if train.names else str(row)
        others.append(replace(p, row=row, name=name, margin=inter - alpha * intra, intra=intra, inter=inter))
    return others


def representatives(
    distances: np.ndarray, owner: np.ndarray, alpha: float, choice: Choice = "margin"
) -> list[tuple[int, float, float]]:
    """Return (index, intra, inter) of one member of each cluster.

    distances: (n, k), of each point to each centre.
    owner: (n,), the cluster of each point.
    choice: margin takes the largest inter - alpha * intra (DPD's release), nearest the least intra.

    The first of equals is taken; for nearest up to DIGITS, since the two members of a pair differ by rounding alone.
    With one cluster inter is 0.
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


def distances_to_centres(
    prototypes: list[Prototype], owner: Tensor, labels: Tensor, points: Callable[[Tensor], np.ndarray],
    drawn: np.ndarray,
) -> Tensor:  # fmt: skip
    """Return the distance of each drawn image to the centre of its prototype's cluster, float32 (prototypes, each).

    owner, labels: cluster and class of each training image, int64 (n,). points: of `find_prototypes`.
    drawn: unit vectors (prototypes * each, d), those of a prototype in a row.
    """
    distances = []
    for p, candidates in zip(prototypes, np.split(drawn, len(prototypes)), strict=True):
        members = torch.where((labels == p.label) & (owner == p.cluster))[0]
        distances.append(np.linalg.norm(candidates - points(members).mean(0), axis=1))
    return torch.from_numpy(np.stack(distances)).float()


def rows_of(prototypes: list[Prototype]) -> Tensor:
    """Return their indices in the training split, int64 (n,)."""
    return torch.tensor([p.row for p in prototypes])


def stored_prototypes(
    stages: Stages, latents: Latents, ipc: int, alpha: float, choice: Choice = "margin"
) -> tuple[list[Prototype], Tensor]:
    """Return the prototypes of this IPC, found once for every seed, and the cluster of every image, int64 (n,).

    The stage holds prototypes.json, clusters.json and images/<class>/<cluster>.png. Its key names the choice only where
    it is not the margin rule: stages from before there was a choice stay valid.
    """
    train = stages.train

    def make(folder: Path) -> None:
        progress = partial(stages.ctx.progress, desc="prototypes")
        prototypes, owner = find_prototypes(
            train, lambda rows: embedding(latents.means(rows)), ipc, alpha, choice, progress
        )
        write_json(folder / "prototypes.json", [p.record() for p in prototypes])
        write_json(folder / "clusters.json", owner.tolist())
        for p in prototypes:
            path = folder / "images" / train.classes[p.label] / f"{p.cluster:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_array(train.images[p.row][None])[0]).save(path)

    key: dict[str, Any] = {"vae": stages.model.vae_identity, "ipc": ipc, "alpha": alpha}
    key |= {} if choice == "margin" else {"choice": choice}
    folder = stages.shared.stage("prototypes", make, **key)
    prototypes = [Prototype(**record) for record in read_json(folder / "prototypes.json")]
    return prototypes, torch.tensor(read_json(folder / "clusters.json", LARGEST_INDEX))


def cluster_captions(prototypes: list[Prototype], owner: Tensor, captions: list[str], train: ImageSet) -> list[str]:
    """Return the caption that represents the cluster of each prototype (`representative_captions`).

    owner: the cluster of each training image within its class, int64 (n,).
    """
    chosen: dict[tuple[int, int], str] = {}
    for label, name in enumerate(train.readable):
        rows = train.of_class(label).tolist()
        indices = representative_captions([captions[row] for row in rows], owner[rows].tolist(), name)
        chosen |= {(label, cluster): captions[rows[i]] for cluster, i in enumerate(indices)}
    return [chosen[p.label, p.cluster] for p in prototypes]
