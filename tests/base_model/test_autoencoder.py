"""The base's autoencoder before its first step does block PCA."""

from __future__ import annotations

import copy

import pytest
import torch

from ddbench.base_model.autoencoder import (
    KL_WEIGHT,
    build_autoencoder,
    kl_term,
    principal_blocks,
    reconstruction_loss,
    start_linear,
    to_blocks,
)
from ddbench.methods.latent_diffusion.decoder import draw_images
from ddbench.methods.latent_diffusion.latents import posterior


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


def test_kl_is_that_of_two_normals():
    mean, std = noise(0), noise(1).abs() + 0.1
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0, 1)
    )
    assert torch.isclose(kl_term(mean, std) / KL_WEIGHT, expected.flatten(1).sum(1).mean(), rtol=1e-4)
