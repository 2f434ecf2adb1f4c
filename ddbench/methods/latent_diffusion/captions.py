"""A caption for every training image: from the pixels (`palette`), or by a vision-language model of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddbench.context import Context
from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.model_files import Role, download, identity_of
from ddbench.methods.shared.device import in_batches
from ddbench.types import ImageSet
from ddbench.utils.files import read_json, write_json

# `palette`, the captioner without a network: dominant colours, texture and edge density, measured in the pixels.
# Thresholds are ours: UC Merced and EuroSAT have images on both sides of each.
VERSION = 1  # raise it when a caption changes: stages are keyed by it
SIDE = 32  # pixels that are looked at, so that a caption hardly depends on the size an image is read in
GRAYS = {"black": 0.15, "dark gray": 0.35, "gray": 0.65, "white": 1.0}  # name: brightest value
HUES = {"red": 20, "brown": 50, "yellow": 70, "green": 165, "blue": 265, "purple": 340, "red again": 360}  # degrees
GRAY_BELOW = 0.12  # saturation
DARK_BELOW, BRIGHT_ABOVE = 0.35, 0.7  # value
MINOR = 0.2  # share of the pixels that a second colour needs
TEXTURES = {"smooth": 0.012, "uneven": 0.035, "rough": torch.inf}  # mean distance from the 3x3 mean of the luminance
EDGES = {"few": 0.05, "some": 0.3, "many": torch.inf}  # share of pixels on an edge
EDGE = 0.15  # Sobel gradient of the luminance, per pixel
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

QUESTION = (
    "Describe this scene, seen from above, in one sentence: the shape of its objects, their layout, "
    "the colours, and what surrounds them."
)
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
CAPTIONER = Role("the captioner", "captioner", "--set captioner=palette describes images offline, from their pixels")
TOKENS = 77  # as many as the text encoders of Stable Diffusion read


def caption_all(captioner: str, train: ImageSet, ctx: Context, batch: int) -> list[str]:
    """One caption per image of `train`, made once: a stage that holds `captions.json`, {image: caption}.

    captioner: "palette", a folder, or a hub id of any AutoModelForImageTextToText. A killed run goes on behind the last
    batch that was finished.
    """
    names = train.names or tuple(map(str, range(len(train.labels))))

    def make(folder: Path) -> None:
        describe: Callable[[Tensor], list[str]] = describe_colours
        if captioner != "palette":
            describe = load_captioner(find_captioner(captioner), ctx.device)
        kept = folder.with_name(f"{folder.name}.captions.jsonl")  # removed when the stage is complete
        found = list(_resumed(describe, train.images, kept, batch, ctx))
        write_json(folder / "captions.json", dict(zip(names, found, strict=True)))

    folder = ctx.stage("captions", make, captioner=captioner_identity(captioner))
    found = read_json(folder / "captions.json")
    return [found[name] for name in names]


def captioner_identity(captioner: str) -> dict[str, Any]:
    """What decides a caption besides the image; UserError at once when there is no such model."""
    if captioner == "palette":
        return {"palette": VERSION}
    return {"model": identity_of(find_captioner(captioner), ""), "question": QUESTION, "tokens": TOKENS}


def find_captioner(name: str) -> Path:
    """The folder of a vision-language model, on this disk or downloaded from the hub (safetensors only)."""
    folder = Path(name)
    if not folder.is_dir():
        folder = download(name, WANTED, CAPTIONER)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} is no vision-language model: it lacks config.json or *.safetensors")
    return folder


def _resumed(describe: Callable, images: Tensor, kept: Path, batch: int, ctx: Context) -> Iterator[str]:
    """Captions of all images: those kept, then the rest, a line of JSON each as soon as its batch is done."""
    done = _read_lines(kept)
    yield from done
    rest, bar = images[len(done) :], partial(ctx.progress, desc="captions")
    with open(kept, "w" if not done else "a", encoding="utf-8") as out:
        for found in in_batches(lambda part: describe(rest[part]), len(rest), batch, bar):
            out.write("".join(json.dumps(caption) + "\n" for caption in found))
            out.flush()
            yield from found


def _read_lines(kept: Path) -> list[str]:
    """The captions that were written whole; the file is cut behind them."""
    if not kept.is_file():
        return []
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        kept.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


def load_captioner(folder: Path, device: torch.device) -> Callable[[Tensor], list[str]]:
    """A function from uint8 images (n, 3, h, w) to captions. No code from the folder runs.

    A model with a chat template is asked QUESTION; one without captions unasked.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    wanted = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype}
    model = AutoModelForImageTextToText.from_pretrained(folder, **wanted).to(device).eval()

    @torch.no_grad()
    def describe(images: Tensor) -> list[str]:
        pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]
        given = _inputs(processor, pictures).to(device, dtype=dtype)
        tokens = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        if "input_ids" in given and not model.config.is_encoder_decoder:
            tokens = tokens[:, given["input_ids"].shape[1] :]  # the question is repeated before the answer
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return describe


def _inputs(processor: Any, pictures: list[Image.Image]) -> Any:
    if getattr(processor, "chat_template", None) is None:
        return processor(images=pictures, return_tensors="pt")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)
    processor.tokenizer.padding_side = "left"  # answers begin where questions end
    return processor(
        text=[text] * len(pictures), images=[[picture] for picture in pictures], padding=True, return_tensors="pt"
    )


def describe_colours(images: Tensor) -> list[str]:
    """One caption for each of the uint8 images (n, 3, h, w): "dark green and brown, rough texture, many edges"."""
    small = F.adaptive_avg_pool2d(images.float() / 255, SIDE)
    luma = torch.einsum("nchw,c->nhw", small, torch.tensor(LUMA))[:, None]
    rough = [_name(value, TEXTURES) for value in _roughness(luma).tolist()]
    edges = [_name(value, EDGES) for value in _edge_share(luma).tolist()]
    return [f"{c}, {r} texture, {e} edges" for c, r, e in zip(_colours(small), rough, edges, strict=True)]


def _name(value: float, limits: dict[str, float]) -> str:
    return next(name for name, limit in limits.items() if value <= limit)


def _roughness(luma: Tensor) -> Tensor:
    """Mean absolute distance of each pixel from the mean of its 3x3 neighbourhood, (n,), 0..1."""
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    return (luma - F.avg_pool2d(padded, 3, 1)).abs().mean((1, 2, 3))


def _edge_share(luma: Tensor) -> Tensor:
    """Share of the pixels whose Sobel gradient is above EDGE, (n,)."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([across, across.T])[:, None] / 4).norm(dim=1)
    return (gradient > EDGE).float().mean((1, 2))


def _colours(small: Tensor) -> list[str]:
    """The most frequent colour name of each image, and the second where it covers enough."""
    names = [*GRAYS, *(f"{shade}{hue}" for hue in HUES for shade in ("dark ", "", "bright "))]
    merged = [name.removesuffix(" again") for name in names]
    distinct = list(dict.fromkeys(merged))
    index = torch.tensor([distinct.index(name) for name in merged])[_colour_numbers(small)].flatten(1)
    shares = F.one_hot(index, len(distinct)).float().mean(1)
    top, which = shares.topk(2, dim=1)
    return [
        distinct[first] + (f" and {distinct[second]}" if share >= MINOR else "")
        for (first, second), share in zip(which.tolist(), top[:, 1].tolist(), strict=True)
    ]


def _colour_numbers(small: Tensor) -> Tensor:
    """Per pixel the number of its colour: grays by value, then three shades of each hue; (n, h, w)."""
    value, span = small.amax(1), small.amax(1) - small.amin(1)
    gray = torch.bucketize(value, torch.tensor(list(GRAYS.values())[:-1]))
    hue = torch.bucketize(_hue(small, value, span), torch.tensor(list(HUES.values())[:-1]))
    shade = (value > DARK_BELOW).long() + (value > BRIGHT_ABOVE).long()
    return torch.where(span < GRAY_BELOW * value.clamp(min=1e-3), gray, len(GRAYS) + 3 * hue + shade)


def _hue(small: Tensor, value: Tensor, span: Tensor) -> Tensor:
    """Degrees, 0..360 (the HSV colour model)."""
    red, green, blue = small.unbind(1)
    span = span.clamp(min=1e-6)
    sector = torch.where(value == red, (green - blue) / span, torch.where(
        value == green, 2 + (blue - red) / span, 4 + (red - green) / span))  # fmt: skip
    return 60 * sector % 360
