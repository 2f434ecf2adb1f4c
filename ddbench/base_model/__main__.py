"""Train the embedded base model `tiny`.

    python -m ddbench.base_model --data-root DATA --compiled --output ddbench/base_model/tiny

Needs EuroSAT (RGB) below DATA. The work folder keeps what is finished and a checkpoint of what is not: the same command
goes on where it was stopped; with other settings a work folder is refused. Every draw follows from its step, so the
same machine, threads and versions give the same weights. Two cores took six minutes for the autoencoder and 70 for the
rest; where a CPU has bf16 instructions, --precision bf16 is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file, save
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from ddbench.base_model import FOLDER
from ddbench.base_model.autoencoder import EVERY, Effort, build_autoencoder, train_autoencoder
from ddbench.base_model.card import write_card
from ddbench.base_model.denoiser import TextToLatent, build_scheduler, denoiser_loss, encode_all
from ddbench.base_model.images import base_images
from ddbench.base_model.tokenizer import train_tokenizer
from ddbench.context import seed_of
from ddbench.datasets.info import DataPaths
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, fit
from ddbench.types import ImageSet
from ddbench.utils.files import Stopwatch, read_json, write_bytes, write_json


@dataclass(frozen=True)
class Plan:
    """How much to train, where, and at what precision."""

    work: Path
    autoencoder: int
    denoiser: int
    precision: str
    compiled: bool = False
    scenes: int = 400

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the weights."""
        return {name: value for name, value in asdict(self).items() if name != "work"}

    def begin(self) -> None:
        """Make the work folder; UsageError when it holds parts of other settings."""
        path = self.work / "settings.json"
        if path.is_file() and (found := read_json(path)) != self.settings:
            raise click.UsageError(f"{self.work} holds parts made with {found}; use another --work, or those settings")
        write_json(path, self.settings)

    @property
    def seconds(self) -> dict[str, float]:
        """How long each finished part took."""
        return {path.stem.removesuffix("-time"): read_json(path) for path in sorted(self.work.glob("*-time.json"))}

    def effort(self, steps: int) -> Effort:
        return Effort(steps, self.precision, self.compiled)

    def once(self, name: str, make: Callable[[], dict]) -> dict:
        """The tensors of a finished part; made and timed when there are none. A part is whole or not there."""
        path = self.work / f"{name}.safetensors"
        if not path.is_file():
            watch = Stopwatch()
            write_bytes(path, save({k: v.contiguous() for k, v in make().items()}))
            write_json(self.work / f"{name}-time.json", watch.seconds)
        return load_file(path)


def bar(desc: str, iterable: Iterable) -> Iterable:
    return tqdm(iterable, desc=desc, mininterval=10, dynamic_ncols=True)


def make_autoencoder(plan: Plan, data: ImageSet) -> AutoencoderDC:
    """The trained autoencoder."""

    def autoencoder() -> dict:
        effort, progress = plan.effort(plan.autoencoder), partial(bar, "autoencoder")
        vae = train_autoencoder(data, effort, progress, plan.work / "autoencoder")
        return vae.state_dict() | {"scaling_factor": torch.tensor(vae.config.scaling_factor)}

    return _restore_autoencoder(plan.once("autoencoder", autoencoder))


def _restore_autoencoder(state: dict) -> AutoencoderDC:
    vae = build_autoencoder()
    vae.register_to_config(scaling_factor=float(state.pop("scaling_factor")))
    vae.load_state_dict(state)
    return vae.eval()


def make_denoiser(plan: Plan, data: ImageSet, vae: AutoencoderDC, tokenizer: CLIPTokenizer) -> TextToLatent:
    """The trained text encoder and U-Net."""
    torch.manual_seed(seed_of(0, "denoiser"))
    model = TextToLatent(tokenizer, vae.config.latent_channels)
    schedule = Schedule(plan.denoiser, 1e-3, warmup=200, cosine=True, ema=0.999)

    def encode() -> dict:
        return {"z": encode_all(vae, data.images, plan.precision, partial(bar, "latents"))}

    def denoiser() -> dict:
        latents = plan.once("latents", encode)
        loss_at = denoiser_loss(data, latents["z"], model, tokenizer)
        fit(model, loss_at, schedule, partial(bar, "denoiser"), Checkpoints(plan.work / "denoiser", EVERY))
        return model.state_dict()

    model.load_state_dict(plan.once("denoiser", denoiser))
    return model.eval()


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True)
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"), help="packed datasets")
@click.option("--work", type=click.Path(path_type=Path), default=Path("work/tiny"), help="checkpoints and parts")
@click.option("--output", type=click.Path(path_type=Path), default=FOLDER, help="the pipeline folder to write")
@click.option("--autoencoder", default=2000, help="steps of the autoencoder, batches of 16")
@click.option("--denoiser", default=9000, help="steps of text encoder and U-Net, batches of 64")
@click.option("--scenes", default=400, help="procedural scenes per class")
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="fp32", help="of the autoencoder")
@click.option("--compiled", is_flag=True, help="torch.compile the autoencoder's loss; needs a C++ compiler")
def main(data_root: Path, shared: Path, output: Path, **settings: Any) -> None:
    plan = Plan(**settings)
    plan.begin()
    data_paths = DataPaths(data_root, shared)
    data = base_images(data_paths, plan.scenes)
    tokenizer = train_tokenizer(plan.work / "tokenizer")
    vae = make_autoencoder(plan, data)
    model = make_denoiser(plan, data, vae, tokenizer)
    parts = {"vae": vae, "unet": model.unet, "text_encoder": model.text, "tokenizer": tokenizer}
    save_base(output, parts | {"scheduler": build_scheduler()})
    write_card(output, data_paths, plan)


def save_base(folder: Path, parts: dict[str, Any]) -> None:
    """One folder per part, weights in float16."""
    for name, part in parts.items():
        part = part.half() if isinstance(part, torch.nn.Module) else part
        part.save_pretrained(folder / name)
    _readable_by_all(folder)


def _readable_by_all(folder: Path) -> None:
    """safetensors writes files for their owner only; a package is for everyone."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
