"""The base's autoencoder before its first step does block PCA."""

from __future__ import annotations

import copy

import pytest
import torch

from ddbench.base_model.autoencoder import (
    KL_WEIGHT,
    build_autoencoder,
    contrast_distance,
    draw_images,
    kl_term,
    pixel_distance,
    principal_blocks,
    reconstruction_loss,
    start_linear,
    texture_loss,
    to_blocks,
)
from ddbench.methods.latent_diffusion.model import posterior


@pytest.fixture(scope="module")
def images(few_scenes):
    return draw_images(few_scenes.images, 64, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vae(images):
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    start_linear(vae, images)
    return vae


@torch.no_grad()
def test_latents_are_the_coefficients_of_the_largest_components(vae, images):
    latents, std = posterior(vae, images)
    mean, basis, scale = principal_blocks(images, 8)
    assert latents.shape == (64, 8, 8, 8)
    assert (std == 0).all()
    assert torch.allclose(latents.movedim(1, -1).flatten(0, 2), (to_blocks(images) - mean) @ basis * scale, atol=1e-4)
    assert torch.isclose(latents.square().mean(), torch.tensor(1.0), atol=0.01)


@torch.no_grad()
def test_reconstructions_are_projections_on_them(vae, images):
    """The best 8 numbers a linear map can keep of 4x4 pixels: nothing is lost on the way through the network."""
    mean, basis, _ = principal_blocks(images, 8)
    projected = (to_blocks(images) - mean) @ basis @ basis.T + mean
    made = to_blocks(vae.decode(posterior(vae, images)[0]).sample)
    assert (made - projected).abs().max() < 0.03
    assert (made - projected).square().mean() < 0.02 * (projected - to_blocks(images)).square().mean()


def test_every_branch_learns(vae, images):
    """Silent is not dead: after one step the branches have gradients too."""
    vae = copy.deepcopy(vae)
    noise = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.optim.SGD(vae.parameters(), lr=1e-3)
    for _ in range(2):
        steps.zero_grad()
        reconstruction_loss(vae, images[:8], noise).backward()
        steps.step()
    dead = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


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


def test_kl_is_that_of_two_normals():
    mean, std = noise(0), noise(1).abs() + 0.1
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0, 1)
    )
    assert torch.isclose(kl_term(mean, std) / KL_WEIGHT, expected.flatten(1).sum(1).mean(), rtol=1e-4)


def test_second_differences_see_fine_texture_more_than_coarse():
    """A chessboard of single pixels costs more with them, by a larger factor than stripes of eight pixels."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    chess = 0.1 * ((rows + columns) % 2).float().expand(1, 3, 32, 32)
    stripes = 0.1 * (rows // 8 % 2).float().expand(1, 3, 32, 32)
    flat = torch.zeros(1, 3, 32, 32)
    factors = [contrast_distance(x, flat, second=True) / contrast_distance(x, flat) for x in (chess, stripes)]
    assert factors[0] > factors[1] > 1


def test_texture_loss_trains_the_decoder_alone_and_asks_for_detail(vae, images):
    """Noise on the latents rises within the batch: the first image has none, whatever the noise."""
    loud, quiet = 100 * noise(0).repeat(2, 3, 1, 1)[:, :8, :8, :8], torch.zeros(4, 8, 8, 8)
    vae.zero_grad()
    texture_loss(vae, images[:4], quiet).backward()
    assert all(p.grad is None for p in vae.encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in vae.decoder.parameters())
    with torch.no_grad():
        assert texture_loss(vae, images[:1], loud[:1]) == texture_loss(vae, images[:1], quiet[:1])
        assert texture_loss(vae, images[:4], loud) > texture_loss(vae, images[:4], quiet)
