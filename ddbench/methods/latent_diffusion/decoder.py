"""Training of an autoencoder's decoder for texture: on the base model's images, or on a dataset's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ddbench.context import generator_of
from ddbench.methods.latent_diffusion.latents import factor_of, posterior
from ddbench.methods.latent_diffusion.training import Schedule, checkpoints_beside, fit
from ddbench.utils.images import resize, to_float

if TYPE_CHECKING:
    from ddbench.methods.latent_diffusion.model import LatentModel

JITTER = 0.05  # noise on the latents in training, as a share of their deviation
TEXTURE = 4.0  # weight of local contrast
SCALES = 3
WINDOW = 8
BATCH = 16
DECODER_FILE = "decoder.safetensors"


def tune_decoder(model: LatentModel, images: Tensor, steps: int, *, folder: Path, progress: Callable) -> dict[str, Any]:
    """Train the model's decoder on images (n, 3, h, w), uint8, by `texture_loss`; write `decoder.safetensors`.

    The encoder stays, so latents stay valid. Returns the steps and the loss. All draws follow from the step.
    """
    vae = model.vae.requires_grad_(False)
    vae.decoder.train().requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        real, noise = draw_batch(vae, images, BATCH, generator_of(0, "decoder", step), model.size)
        return texture_loss(vae, real.to(model.device), noise.to(model.device))

    schedule = Schedule(steps, 2e-4, warmup=min(100, steps // 10), cosine=True, decay=1e-4, betas=(0.9, 0.99), ema=0.99)
    result = fit(vae, loss_at, schedule, progress, checkpoints_beside(folder))
    vae.eval().requires_grad_(False)
    save_file({name: w.cpu().contiguous() for name, w in vae.decoder.state_dict().items()}, folder / DECODER_FILE)
    return {"steps": steps, **asdict(result)}


def draw_batch(
    vae: Any, images: Tensor, count: int, generator: torch.Generator, size: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw `count` of the images by `draw_images`, resized to `size` px, and noise for their latents; size 0: as is."""
    real = resize(draw_images(images, count, generator), size)
    grid = (count, vae.config.latent_channels, *(side // factor_of(vae) for side in real.shape[2:]))
    return real, torch.randn(grid, generator=generator, device=generator.device)


def draw_images(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` of the images (n, 3, s, s), uint8, each under one of the square's eight symmetries.

    `generator` lives on the device of the images. Returns float32 (count, 3, s, s) in [-1, 1].
    """
    draw = partial(torch.rand, count, 1, 1, 1, generator=generator, device=images.device)
    rows = torch.randint(len(images), (count,), generator=generator, device=images.device)
    batch = images[rows]
    batch = torch.where(draw() < 0.5, batch.flip(3), batch)
    batch = torch.where(draw() < 0.5, batch.flip(2), batch)
    return to_float(torch.where(draw() < 0.5, batch.transpose(2, 3), batch))


def texture_loss(vae: Any, real: Tensor, noise: Tensor) -> Tensor:
    """Return the loss of one batch (n, 3, h, w) in [-1, 1] for the decoder alone: pixels, TEXTURE times local contrast.

    noise: standard normal, of the latents' shape. Its deviation rises within the batch from none to JITTER.
    """
    with torch.no_grad():
        mean = posterior(vae, real)[0]
    amount = torch.linspace(0, JITTER, len(mean), device=mean.device).view(-1, 1, 1, 1)
    image = vae.decode(mean + (amount / vae.config.scaling_factor * noise).to(mean)).sample.float()
    return pixel_distance(image, real) + TEXTURE * contrast_distance(image, real, second=True)


def pixel_distance(image: Tensor, real: Tensor) -> Tensor:
    """Return the mean absolute error of pixels and of differences between neighbours; (n, 3, h, w) in [-1, 1]."""
    return (image - real).abs().mean() + sum((image.diff(dim=d) - real.diff(dim=d)).abs().mean() for d in (2, 3))


def contrast_distance(image: Tensor, real: Tensor, second: bool = False) -> Tensor:
    """Return the sum of mean absolute errors of local contrast, in both directions at three scales.

    image, real: (n, 3, h, w) in [-1, 1]. second: also the contrast of second differences, at full size.

    Pixels alone reward blur wherever detail cannot be kept, and a classifier then mistakes houses for fields. This
    term asks for as much texture, even where it is not the same (measured in docs/base-model.md).
    """
    pairs = zip(_neighbour_differences(image, second), _neighbour_differences(real, second), strict=True)
    return reduce(torch.add, ((_local_contrast(a) - _local_contrast(b)).abs().mean() for a, b in pairs))


def _neighbour_differences(images: Tensor, second: bool) -> Iterator[Tensor]:
    """Yield differences between vertical and horizontal neighbours at full, half and quarter size.

    second: with the second differences at full size.
    """
    for scale in range(SCALES):
        down, across = images.diff(dim=2), images.diff(dim=3)
        yield from (down, across)
        if second and scale == 0:
            yield from (down.diff(dim=2), across.diff(dim=3), down.diff(dim=3))
        images = F.avg_pool2d(images, 2)


def _local_contrast(band: Tensor) -> Tensor:
    """Return the root mean square in windows that overlap by half."""
    return torch.sqrt(F.avg_pool2d(band.square(), WINDOW, WINDOW // 2, WINDOW // 2) + 1e-5)
