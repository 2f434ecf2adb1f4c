"""The distance in pixels that autoencoders learn from."""

from __future__ import annotations

import torch

from ddbench.base_model.autoencoder import KL_WEIGHT, contrast_distance, kl_term, pixel_distance


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
    wanted = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(0, 1))
    assert torch.isclose(kl_term(mean, std) / KL_WEIGHT, wanted.flatten(1).sum(1).mean(), rtol=1e-4)
