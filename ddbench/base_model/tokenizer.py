"""A CLIP tokenizer of our own: byte-pair merges learned on the words that name land cover."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

WORDS = """
a an the of and with in on from image images photo picture satellite aerial remote sensing view scene overhead drawn
airplane airport apron annual area arable bare bareland baseball basketball beach bed bridge building buildings
cemetery center central chaparral christmas church circle circles circular city closed coast coastal coastline
commercial container court courts crop crops crossing crossroads crosswalk dam dense desert diamond district docked
dry factory farm farmland farms ferry field fields football forest freeway golf course grass grassland green ground
harbor harbour herbaceous highway home housing houses ice industrial intersection irrigated irrigation island lake
land lot mangrove mansion marina meadow medium mobile mountain natural nursing oil gas overpass palace park parking
parked pasture permanent pivot plain playground pond pool port power plant railway station rectangular residential
resort river road roads roundabout runway school sea shipping ships shrub shrubland snow snowberg snowy solar panel
sparse square stadium storage tank tanks street swimming tennis terminal terrace thermal town track trees vegetation
viaduct vineyard wastewater treatment water well wetland wind turbine yard large small many few red blue white brown
gray dark bright yellow smooth rough textured texture edges colour color shape round straight curved narrow wide rows
"""


def train_tokenizer(folder: Path, size: int = 1024, length: int = 32) -> CLIPTokenizer:
    """Learn at most `size` tokens from WORDS, write `vocab.json` and `merges.txt`, and load them as a CLIPTokenizer.

    Any other word is spelled with pieces, down to single bytes: no prompt is ever unknown. `length`: longest prompt.
    The vocabulary is in CLIP's order: bytes, bytes that end a word, merges, start, end.
    """
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(WORDS.split(), size - 2 * len(bytes_) - 2)
    tokens = [*bytes_, *(b + "</w>" for b in bytes_), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink(missing_ok=True)  # it would be read in place of these two files
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


def learn_merges(words: list[str], most: int) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first and of equals the alphabetically first (Sennrich et al., 2016).

    Ours because the trainer of `tokenizers` breaks ties by chance: a base resumed with another order of tokens would
    have learned other words.
    """
    spelled = {(*word[:-1], word[-1] + "</w>"): count for word, count in Counter(words).items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, count in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += count
        if not pairs:
            break
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        spelled = {_merged(pieces, merges[-1]): count for pieces, count in spelled.items()}
    return merges


def _merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """`pieces` with every occurrence of `pair`, from the left, made one."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)
