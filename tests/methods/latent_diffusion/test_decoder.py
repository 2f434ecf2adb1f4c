"""The decoder's training for texture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddbench.base_model.autoencoder import build_autoencoder
from ddbench.methods.latent_diffusion.decoder import (
    contrast_distance,
    draw_batch,
    draw_images,
    pixel_distance,
    texture_loss,
)
from ddbench.methods.latent_diffusion.model import load_model


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_autoencoder()


def noise(seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_a_shift_in_brightness_costs_its_size_and_no_contrast():
    real = noise(0)
    assert pixel_distance(real, real) == 0
    assert torch.isclose(pixel_distance(real + 0.25, real), torch.tensor(0.25), atol=1e-5)
    assert contrast_distance(real + 0.25, real) < 1e-5


def test_texture_that_is_not_the_same_is_better_than_less_of_it():
    """Pixels alone prefer less: an independent texture is further off than a fainter one."""
    real, other = noise(0), noise(1)
    assert pixel_distance(0.5 * other, real) < pixel_distance(other, real)
    assert contrast_distance(0.5 * other, real) > 2 * contrast_distance(other, real)


def test_flat_images_have_a_finite_gradient():
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    contrast_distance(flat, torch.ones(1, 3, 16, 16)).backward()
    assert torch.isfinite(flat.grad).all()


def test_second_differences_see_fine_texture_more_than_coarse():
    """A chessboard of single pixels costs more with them, by a larger factor than stripes of eight pixels."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    chess = 0.1 * ((rows + columns) % 2).float().expand(1, 3, 32, 32)
    stripes = 0.1 * (rows // 8 % 2).float().expand(1, 3, 32, 32)
    flat = torch.zeros(1, 3, 32, 32)
    factors = [contrast_distance(x, flat, second=True) / contrast_distance(x, flat) for x in (chess, stripes)]
    assert factors[0] > factors[1] > 1


def test_texture_loss_trains_the_decoder_alone_and_asks_for_detail(vae, few_scenes):
    """Noise on the latents rises within the batch: the first image has none, whatever the noise."""
    images = draw_images(few_scenes.images, 4, torch.Generator().manual_seed(0))
    loud, quiet = 100 * noise(0).repeat(2, 3, 1, 1)[:, :8, :8, :8], torch.zeros(4, 8, 8, 8)
    texture_loss(vae, images[:4], quiet).backward()
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in vae.decoder.parameters())
    with torch.no_grad():
        assert texture_loss(vae, images[:1], loud[:1]) == texture_loss(vae, images[:1], quiet[:1])
        assert texture_loss(vae, images[:4], loud) > texture_loss(vae, images[:4], quiet)


@pytest.mark.parametrize("size", [0, 16])
def test_a_batch_has_noise_of_the_latents_shape(size, vae, few_scenes):
    real, noise = draw_batch(vae, few_scenes.images, 5, torch.Generator().manual_seed(0), size)
    side = size or 32
    assert real.shape == (5, 3, side, side)
    assert noise.shape == (5, 8, side // 4, side // 4)


def test_the_decoder_learns_the_training_images_and_the_encoder_stays(stages):
    images, vae = stages.train.images, stages.model.vae
    before = {name: w.clone() for name, w in vae.state_dict().items()}
    real, noise = draw_batch(vae, images, 8, torch.Generator().manual_seed(5))

    def loss():
        with torch.no_grad():
            return float(texture_loss(vae, real, noise))

    first = loss()
    stages.tune_decoder(30)
    assert loss() < 0.98 * first
    after = vae.state_dict()
    changed = {name.partition(".")[0] for name, w in before.items() if not torch.equal(w, after[name])}
    assert changed == {"decoder"}
    assert not any(p.requires_grad for p in vae.parameters())


def test_a_stored_decoder_is_the_same(stages, pipeline):
    stages.tune_decoder(3)
    once = {name: w.clone() for name, w in stages.model.vae.state_dict().items()}
    again = replace(stages, model=load_model(str(pipeline), torch.device("cpu")), ctx=replace(stages.ctx, costs=[]))
    again.tune_decoder(3)
    assert [cost["reused"] for cost in again.ctx.costs] == [True]
    assert all(torch.equal(w, once[name]) for name, w in again.model.vae.state_dict().items())
