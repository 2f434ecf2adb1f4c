"""What is said to the denoiser: of every training image while it is fine-tuned, of every prototype while it draws."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COMMON = 0.7  # of a class's captions: a word in so many of them tells no image of the class from another
KEEP = 30  # words of a cluster that weigh


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


def aggregate(captions: Sequence[str], clusters: Sequence[int], readable: str, count: int = 0) -> list[int]:
    """For each cluster 0, 1, ... (of `count`, 0 for as many as there are) the index of the caption that stands for it.

    The rule of VLCP (arXiv 2506.23580).
    captions, clusters: of every image of one class. Stop words, the words of the class's `readable` name and words in
    at least 70 % of the class's captions are dropped; of the rest the 30 most frequent in the cluster weigh their
    count; the member whose caption contains the largest sum is taken, of equals the first. Deterministic; stop words
    are scikit-learn's (VLCP: NLTK's, which must be downloaded). For a cluster without a member (images that are in a
    class twice leave k-means fewer than asked) all of the class's captions stand.
    """
    dropped = _stop_words() | set(words(readable)) | common_words(captions)
    chosen = []
    for cluster in range(count or max(clusters) + 1):
        members = [i for i, owner in enumerate(clusters) if owner == cluster] or list(range(len(captions)))
        chosen.append(members[_best([captions[i] for i in members], dropped)])
    return chosen


def words(text: str) -> list[str]:
    """Lower-case words of letters, in order."""
    return re.findall(r"[^\W\d_]+", text.lower())


def common_words(captions: Sequence[str]) -> set[str]:
    """Words in at least 70 % of the captions."""
    seen = Counter(word for caption in captions for word in set(words(caption)))
    return {word for word, count in seen.items() if count >= COMMON * len(captions)}


def _best(captions: Sequence[str], dropped: Collection[str]) -> int:
    """Index of the caption with the largest summed weight; a word weighs where it occurs, inside longer ones too."""
    counts = Counter(word for caption in captions for word in words(caption) if word not in dropped)
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:KEEP]
    sums = [sum(count for word, count in kept if word in caption.lower()) for caption in captions]
    return max(range(len(captions)), key=sums.__getitem__)


def _stop_words() -> set[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return set(ENGLISH_STOP_WORDS)
