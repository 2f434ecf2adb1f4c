"""What is said to the denoiser: of every training image while it is fine-tuned, of every prototype while it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.methods.dpd.prototypes import Prototype
from ddbench.methods.text import aggregate
from ddbench.types import ImageSet


@dataclass(frozen=True)
class Prompts:
    """Distinct prompts, and who is meant by each.

    texts, labels: the prompts and the class of each. of: index into `texts`, int64 (n,), of each image or prototype.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    of: Tensor


def class_prompts(template: str, readable: Sequence[str], labels: Tensor) -> Prompts:
    """The template's prompt of each one's class."""
    return Prompts(tuple(template.format(name) for name in readable), tuple(range(len(readable))), labels)


def own_prompts(template: str, readable: Sequence[str], labels: Tensor, captions: Sequence[str]) -> Prompts:
    """The template's prompt of each one's class, and a caption of its own as the next sentence."""
    names = [template.format(name).removesuffix(".") for name in readable]
    said = [(f"{names[y]}. {caption}", y) for y, caption in zip(labels.tolist(), captions, strict=True)]
    distinct = {pair: i for i, pair in enumerate(dict.fromkeys(said))}
    texts, classes = zip(*distinct, strict=True)
    return Prompts(texts, classes, torch.tensor([distinct[pair] for pair in said]))


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
