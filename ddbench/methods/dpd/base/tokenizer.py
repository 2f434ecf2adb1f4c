"""A CLIP tokenizer of our own: byte-pair merges learned on the words that name land cover."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
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
    """
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    words, bytes_ = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(sorted(WORDS.split()), trainer)
    return _as_clip(tokenizer, folder, length)


def _as_clip(tokenizer: Tokenizer, folder: Path, length: int) -> CLIPTokenizer:
    """CLIP's vocabulary order: bytes, bytes that end a word, merges, start, end."""
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*bytes_, *(b + "</w>" for b in bytes_), *("".join(m) for m in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer
