"""Machinery of the methods that sample a latent diffusion model."""
