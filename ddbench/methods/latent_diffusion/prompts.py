"""Prompts for fine-tuning and sampling; the caption that represents a cluster."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

import torch
from torch import Tensor

COMMON = 0.7  # a word in this share of a class's captions does not distinguish its images
TOP_WORDS = 30  # words of a cluster that weigh


@dataclass(frozen=True)
class Prompts:
    """The prompts of n images, each distinct one once.

    texts, labels: the distinct prompts, and the class of each.
    index: of each image, the position of its prompt in `texts`, int64 (n,).
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    index: Tensor


def check_template(template: str) -> None:
    """Raise ValueError unless the template contains {} once, for the class name."""
    try:
        placeholders = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        placeholders = []
    if placeholders != [""]:
        raise ValueError("prompt must contain {} once, for the class name")


def class_prompts(template: str, readable: Sequence[str], labels: Tensor) -> Prompts:
    """Fill the template with the class name of each image; labels int64 (n,)."""
    return Prompts(tuple(template.format(name) for name in readable), tuple(range(len(readable))), labels)


def caption_prompts(template: str, readable: Sequence[str], labels: Tensor, captions: Sequence[str]) -> Prompts:
    """Fill the template as `class_prompts` does, and add each image's caption as a second sentence."""
    sentences = [template.format(name).removesuffix(".") for name in readable]
    pairs = [(f"{sentences[y]}. {caption}", y) for y, caption in zip(labels.tolist(), captions, strict=True)]
    distinct = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    texts, classes = zip(*distinct, strict=True)
    return Prompts(texts, classes, torch.tensor([distinct[pair] for pair in pairs]))


def representative_captions(
    captions: Sequence[str], clusters: Sequence[int], readable: str, count: int = 0
) -> list[int]:
    """Return for each cluster the index of the caption that represents it (the rule of VLCP, arXiv 2506.23580).

    captions, clusters: of every image of one class.
    readable: the class's name.
    count: number of clusters, 0 for the largest in `clusters` and all below.

    Stop words, words that the name contains and words in at least 70 % of the captions are dropped. The 30 most
    frequent others of a cluster weigh their count; of equals those that come first. The caption that contains the
    largest sum wins; the first of equals. A word counts inside longer words too.

    Ours where the release differs: letters' case does not count. Stop words are scikit-learn's (there NLTK's, which
    must be downloaded). A cluster without a member takes the class's captions: repeated images leave k-means fewer
    clusters than asked for.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    name, dropped = readable.lower(), ENGLISH_STOP_WORDS | common_words(captions)
    chosen = []
    for cluster in range(count or max(clusters) + 1):
        members = [i for i, owner in enumerate(clusters) if owner == cluster] or list(range(len(captions)))
        spoken = (word for i in members for word in words(captions[i]))
        top = Counter(word for word in spoken if word not in dropped and word not in name).most_common(TOP_WORDS)
        sums = [sum(n for word, n in top if word in captions[i].lower()) for i in members]
        chosen.append(members[sums.index(max(sums))])
    return chosen


def words(text: str) -> list[str]:
    """Return the lower-case words of letters, in order."""
    return re.findall(r"[^\W\d_]+", text.lower())


def common_words(captions: Sequence[str]) -> set[str]:
    """Return the words in at least 70 % of the captions."""
    counts = Counter(word for caption in captions for word in set(words(caption)))
    return {word for word, n in counts.items() if n >= COMMON * len(captions)}
