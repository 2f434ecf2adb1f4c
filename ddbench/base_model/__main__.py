"""Train the embedded base model `tiny`.

\b
    python -m ddbench.base_model --data-root DATA --output ddbench/base_model/tiny
    python -m ddbench.base_model --data-root DATA --minutes 8          on a GPU

Needs EuroSAT (RGB) below DATA. The work folder keeps the finished parts (autoencoder, decoder, latents, denoiser) and a
checkpoint of the unfinished one: the same command continues where it was stopped. A part that was made with other
settings is refused. Every draw follows from its step, so on a CPU the same machine, threads and versions give the same
weights. A training of --minutes ends by the clock, so its weights are others each time.

For a machine without the dataset, --pack FILE.zip writes the training images, --images FILE.zip reads them there, and
--until denoiser stops before the model card, which needs EuroSAT's test split. Then bring the work folder back and call
the same command here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file, save
from transformers import CLIPTokenizer

from ddbench.base_model import FOLDER
from ddbench.base_model.autoencoder import build_autoencoder, train_autoencoder, train_decoder
from ddbench.base_model.budget import Amount, TrainingBudget
from ddbench.base_model.card import write_card
from ddbench.base_model.data import base_images, pack_images
from ddbench.base_model.denoiser import TextToLatent, build_scheduler, encode_views, train_denoiser
from ddbench.base_model.tokenizer import train_tokenizer
from ddbench.context import seed_of
from ddbench.datasets.info import DataPaths
from ddbench.types import ImageSet
from ddbench.utils.files import Stopwatch, read_json, write_bytes, write_json
from ddbench.utils.progress import progress_bar
from ddbench.utils.provenance import device_name

SHARES = 1 / 5, 1 / 20, 3 / 4  # of --minutes: autoencoder, decoder, denoiser
PARTS = ("autoencoder", "decoder", "latents", "denoiser")


@dataclass(frozen=True)
class WorkFolder:
    """The work folder, and the device that computes.

    data: what the images are, in words; part of every part's settings.
    """

    path: Path
    device: torch.device
    data: str

    def part(self, name: str, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the tensors of a part, in float16 as they ship; make and time it when it is not there.

        Raises click.UsageError when the folder holds the part, or a checkpoint of it, made with other settings.
        """
        path, record = self.path / f"{name}.safetensors", self.path / f"{name}.json"
        settings = settings | {"data": self.data}
        if record.is_file() and (before := read_json(record)["settings"]) != settings:
            raise click.UsageError(f"{record} has {before}, not {settings}: use another --work, or those settings")
        if not path.is_file():
            write_json(record, {"settings": settings})
            watch = Stopwatch()
            write_bytes(path, save({k: half(v).contiguous().cpu() for k, v in make().items()}))
            write_json(record, {"settings": settings, "seconds": watch.seconds, "device": device_name(self.device)})
        return load_file(path)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return settings, seconds and device of the parts that are begun or finished."""
        paths = {name: self.path / f"{name}.json" for name in PARTS}
        return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() and tensor.ndim else tensor


def bar(desc: str, iterable: Iterable) -> Iterable:
    return progress_bar(iterable, desc=desc)


def make_autoencoder(work: WorkFolder, data: ImageSet, budget: TrainingBudget) -> AutoencoderDC:
    """Return the trained autoencoder, on the device."""

    def make() -> dict[str, torch.Tensor]:
        vae = train_autoencoder(data, budget, work.device, partial(bar, "autoencoder"), work.path / "autoencoder")
        return vae.state_dict() | {"scaling_factor": torch.tensor(vae.config.scaling_factor)}

    state = work.part("autoencoder", asdict(budget), make)
    vae = build_autoencoder()
    vae.register_to_config(scaling_factor=float(state.pop("scaling_factor")))
    vae.load_state_dict(state)
    return vae.to(work.device).eval()


def make_decoder(work: WorkFolder, data: ImageSet, vae: AutoencoderDC, budget: TrainingBudget) -> None:
    """Give the autoencoder the decoder that is trained on for texture."""

    def make() -> dict[str, torch.Tensor]:
        train_decoder(vae, data, budget, partial(bar, "decoder"), work.path / "decoder")
        return vae.decoder.state_dict()

    settings = asdict(budget) | {"autoencoder": work.records()["autoencoder"]["settings"]}
    vae.decoder.load_state_dict(work.part("decoder", settings, make))


def make_denoiser(
    work: WorkFolder, data: ImageSet, vae: AutoencoderDC, tokenizer: CLIPTokenizer, budget: TrainingBudget
) -> TextToLatent:
    """Return the trained text encoder and U-Net, on the CPU."""
    torch.manual_seed(seed_of(0, "denoiser"))
    model = TextToLatent(tokenizer, vae.config.latent_channels)
    autoencoder = work.records()["autoencoder"]["settings"]

    def make() -> dict[str, torch.Tensor]:
        z = work.part("latents", autoencoder, encode)["z"]
        model.to(work.device).to(memory_format=budget.memory_format)
        train_denoiser(model, data, z, budget, partial(bar, "denoiser"), work.path / "denoiser")
        return model.state_dict()

    def encode() -> dict[str, torch.Tensor]:
        return {"z": encode_views(vae, data.images, work.device, partial(bar, "latents"))}

    model.load_state_dict(work.part("denoiser", asdict(budget) | {"autoencoder": autoencoder}, make))
    return model.cpu().eval()


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", help="holds EuroSAT")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"), help="packed datasets")
@click.option("--work", type=click.Path(path_type=Path), default=Path("work/tiny"), help="checkpoints and parts")
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER, help="the pipeline folder to write")
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="read training images from this ZIP file")
@click.option("--pack", type=click.Path(path_type=Path), help="write training images to this ZIP file, and stop")
@click.option("--autoencoder", type=Amount(), default="6000", help="steps (batches of 16), or minutes as 2.5min")
@click.option("--decoder", type=Amount(), default="3000", help="steps (batches of 16), or minutes as 0.5min")
@click.option("--denoiser", type=Amount(), default="20000", help="steps (batches of 64), or minutes as 6.5min")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="autoencoder 1/5, decoder 1/20, denoiser 3/4")
@click.option("--scenes", default=400, help="procedural scenes per class")
@click.option("--device", default="auto", help="auto: a GPU where there is one")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", help="of the denoiser")
@click.option("--until", type=click.Choice(["autoencoder", "denoiser"]), help="stop after this part")
def main(  # noqa: PLR0913
    data_root: Path | None,
    shared: Path,
    work: Path,
    output: Path,
    images: Path | None,
    pack: Path | None,
    autoencoder: str,
    decoder: str,
    denoiser: str,
    minutes: float | None,
    scenes: int,
    device: str,
    precision: str,
    until: str | None,
) -> None:
    paths = DataPaths(data_root, shared)
    if pack:
        pack_images(paths, pack)
        return
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(automatic if device == "auto" else device)
    amounts = [f"{minutes * share:g}min" for share in SHARES] if minutes else [autoencoder, decoder, denoiser]
    of_autoencoder, of_decoder, of_denoiser = budgets(amounts, precision, gpu=chosen.type == "cuda")
    folder = WorkFolder(work, chosen, f"EuroSAT ({'WebP' if images else 'files'}), {scenes} scenes per class")
    data = base_images(paths, scenes, images)
    tokenizer = train_tokenizer(work / "tokenizer")
    vae = make_autoencoder(folder, data, of_autoencoder)
    if until == "autoencoder":
        return
    make_decoder(folder, data, vae, of_decoder)
    model = make_denoiser(folder, data, vae, tokenizer, of_denoiser)
    parts = {"vae": vae.cpu(), "unet": model.unet, "text_encoder": model.text, "tokenizer": tokenizer}
    save_base(output, parts | {"scheduler": build_scheduler()})
    if until is None:
        write_card(output, paths, folder.records())


def budgets(amounts: Sequence[str], precision: str, *, gpu: bool) -> tuple[TrainingBudget, ...]:
    """Return the budgets of autoencoder, decoder and denoiser for these amounts.

    precision: of the denoiser, or auto.

    A GPU takes large batches and compiles: on an H200 a step of 512 took 90 ms eager, 23 ms compiled and in one CUDA
    graph. Its autoencoder stays in float32, since bf16 has too few digits for pixels. A CPU with AVX512-BF16 runs the
    U-Net 1.8 times as fast in bf16; its default is fp32.
    """
    autoencoder, decoder, denoiser = amounts
    precision = {"auto": "bf16" if gpu else "fp32"}.get(precision, precision)
    if gpu:
        return (
            TrainingBudget(autoencoder, 256, 4e-4, 0.998, compiled=True, channels_last=True),
            TrainingBudget(decoder, 256, 4e-4, 0.998, compiled=True, channels_last=True),
            TrainingBudget(denoiser, 512, 1e-3, 0.9995, precision=precision, compiled=True, channels_last=True),
        )
    return (
        TrainingBudget(autoencoder, 16, 1e-4, 0.99),
        TrainingBudget(decoder, 16, 2e-4, 0.995),
        TrainingBudget(denoiser, 64, 1e-3, 0.999, precision=precision, channels_last=precision == "bf16"),
    )


def save_base(folder: Path, parts: dict[str, Any]) -> None:
    """Write one folder per part, weights in float16, readable by all: safetensors writes for a file's owner only."""
    for name, part in parts.items():
        stored: Any = part.half() if isinstance(part, torch.nn.Module) else part
        stored.save_pretrained(folder / name)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
