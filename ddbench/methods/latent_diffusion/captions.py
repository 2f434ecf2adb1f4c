"""A caption for every training image: from the pixels (`palette`), or by a vision-language model of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddbench.context import Context
from ddbench.errors import UserError, is_out_of_memory
from ddbench.methods.latent_diffusion.model_files import Role, download, model_identity
from ddbench.methods.shared.device import in_batches
from ddbench.types import ImageSet
from ddbench.utils.files import read_json, write_json
from ddbench.utils.images import to_array
from ddbench.utils.limits import LARGEST_INDEX
from evaluators.model_checks import ModelError, check_files, check_loaded, check_tokenizer, check_values

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
FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
CAPTIONER = Role("the captioner", "captioner", "--set captioner=palette describes images offline, from their pixels")
TOKENS = 77  # as many as the text encoders of Stable Diffusion read


def caption_all(captioner: str, train: ImageSet, ctx: Context, batch: int) -> list[str]:
    """Return one caption per image of `train`, written once: the stage holds `captions.json`, {image: caption}.

    captioner: palette, a folder, or a hub id of any AutoModelForImageTextToText.

    A killed run continues after the last finished batch.
    """
    names = train.names or tuple(map(str, range(len(train.labels))))

    def make(folder: Path) -> None:
        describe: Callable[[Tensor], list[str]] = describe_colours
        if captioner != "palette":
            describe = load_captioner(find_captioner(captioner), ctx.device)
        unfinished = folder.with_name(f"{folder.name}.captions.jsonl")  # removed when the stage is complete
        captions = _read_complete_lines(unfinished)
        rest, progress = train.images[len(captions) :], partial(ctx.progress, desc="captions")
        with open(unfinished, "a", encoding="utf-8") as out:
            for part in in_batches(lambda rows: describe(rest[rows]), len(rest), batch, progress):
                out.write("".join(json.dumps(caption) + "\n" for caption in part))
                out.flush()
                captions += part
        write_json(folder / "captions.json", dict(zip(names, captions, strict=True)))

    folder = ctx.stage("captions", make, captioner=captioner_identity(captioner))
    captions = read_json(folder / "captions.json", LARGEST_INDEX)
    return [captions[name] for name in names]


def _read_complete_lines(path: Path) -> list[str]:
    """Read a file of one JSON string a line, and cut off a last line that was not written to its end."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    if len(complete) < len(lines):
        path.write_text("".join(complete), encoding="utf-8")
    return [json.loads(line) for line in complete]


def captioner_identity(captioner: str) -> dict[str, Any]:
    """Return JSON values that decide a caption besides the image. Raises UserError when there is no such model."""
    if captioner == "palette":
        return {"palette": VERSION}
    return {"model": model_identity(captioner, find_captioner(captioner), ""), "question": QUESTION, "tokens": TOKENS}


def find_captioner(name: str) -> Path:
    """Return the folder of a vision-language model, on this disk or downloaded from the hub (safetensors only).

    Raises UserError for a folder without such a model, or with a file that is not whole.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = download(name, FILES, CAPTIONER)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a vision-language model: it lacks config.json")
    try:
        check_files(folder, "model")
    except ModelError as error:
        raise UserError(f"{CAPTIONER.title} {name}: {error}\n{CAPTIONER.alternative}.") from None
    return folder


def check_captioner(name: str) -> None:
    """Raise UserError for a captioner that cannot be loaded, without reading its weights. palette is always there."""
    if name != "palette":
        _load_parts(find_captioner(name), torch.float32, torch.device("meta"))


def load_captioner(folder: Path, device: torch.device) -> Callable[[Tensor], list[str]]:
    """Return a function from uint8 images (n, 3, h, w) to captions. No code of the folder runs.

    A model with a chat template is asked QUESTION; one without gets the images alone.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    processor, model = _load_parts(folder, dtype)
    model = model.to(device).eval()

    def encode(images: list[Image.Image]) -> Any:
        if getattr(processor, "chat_template", None) is None:
            return processor(images=images, return_tensors="pt")
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        processor.tokenizer.padding_side = "left"  # answers begin where questions end
        batch = {"text": [text] * len(images), "images": [[image] for image in images]}
        return processor(**batch, padding=True, return_tensors="pt")

    @torch.no_grad()
    def describe(images: Tensor) -> list[str]:
        inputs = encode([Image.fromarray(image) for image in to_array(images)])
        inputs = inputs.to(device, dtype=dtype)
        tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        if "input_ids" in inputs and not model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # the question is repeated before the answer
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return describe


def _load_parts(folder: Path, dtype: torch.dtype, device: torch.device | None = None) -> tuple[Any, Any]:
    """Return processor and model of a captioner. Raises UserError unless both are whole.

    device: "meta" compares the weights' names and shapes, and reads none.
    """
    import transformers
    from transformers import AutoModelForImageTextToText, AutoProcessor

    transformers.utils.logging.set_verbosity_error()  # its report of loading becomes an error here
    transformers.utils.logging.disable_progress_bar()
    options = {"use_safetensors": True, "trust_remote_code": False, "dtype": dtype, "output_loading_info": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        check_tokenizer(folder, getattr(processor, "tokenizer", processor))
        model, report = AutoModelForImageTextToText.from_pretrained(folder, device_map=device, **options)
        check_loaded(folder, report)
        check_values(folder, model.named_parameters())
    except Exception as error:  # the library raises many kinds for damaged files
        if is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if "backend tokenizer" in lines[0]:  # the library's words for lacking files
            lines = ["it has no tokenizer.json (nor other files of a vocabulary): copy it too"]
        raise UserError(f"{CAPTIONER.title} {folder} cannot be used: {lines[0]}\n{CAPTIONER.alternative}.") from error
    return processor, model


def describe_colours(images: Tensor) -> list[str]:
    """Caption uint8 images (n, 3, h, w) by their pixels: "dark green and brown, rough texture, many edges"."""
    small = F.adaptive_avg_pool2d(images.float() / 255, SIDE)
    luma = torch.einsum("nchw,c->nhw", small, torch.tensor(LUMA))[:, None]
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    roughness = (luma - F.avg_pool2d(padded, 3, 1)).abs().mean((1, 2, 3))
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    gradient = F.conv2d(padded, torch.stack([across, across.T])[:, None] / 4).norm(dim=1)
    edges = (gradient > EDGE).float().mean((1, 2))
    textures, amounts = (
        [next(name for name, limit in limits.items() if value <= limit) for value in values.tolist()]
        for values, limits in ((roughness, TEXTURES), (edges, EDGES))
    )
    colours = _dominant_colours(small)
    return [f"{c}, {t} texture, {n} edges" for c, t, n in zip(colours, textures, amounts, strict=True)]


def _dominant_colours(images: Tensor) -> list[str]:
    """Name the most frequent colour of each RGB image (n, 3, h, w) in 0..1, and the second where it covers enough."""
    value = images.amax(1)
    span = value - images.amin(1)
    gray = torch.bucketize(value, torch.tensor(list(GRAYS.values())[:-1]))
    hue = torch.bucketize(_hue(images, value, span), torch.tensor(list(HUES.values())[:-1]))
    shade = (value > DARK_BELOW).long() + (value > BRIGHT_ABOVE).long()
    number = torch.where(span < GRAY_BELOW * value.clamp(min=1e-3), gray, len(GRAYS) + 3 * hue + shade)

    names = [*GRAYS, *(f"{shade}{hue}" for hue in HUES for shade in ("dark ", "", "bright "))]
    names = [name.removesuffix(" again") for name in names]
    distinct = list(dict.fromkeys(names))
    index = torch.tensor([distinct.index(name) for name in names])[number].flatten(1)
    shares, top = F.one_hot(index, len(distinct)).float().mean(1).topk(2, dim=1)
    return [
        distinct[first] + (f" and {distinct[second]}" if share >= MINOR else "")
        for (first, second), share in zip(top.tolist(), shares[:, 1].tolist(), strict=True)
    ]


def _hue(images: Tensor, value: Tensor, span: Tensor) -> Tensor:
    """Return degrees, 0..360, (n, h, w) (the HSV colour model); value and span: largest channel, and its lead."""
    red, green, blue = images.unbind(1)
    span = span.clamp(min=1e-6)
    sector = torch.where(value == red, (green - blue) / span, torch.where(
        value == green, 2 + (blue - red) / span, 4 + (red - green) / span))  # fmt: skip
    return 60 * sector % 360
