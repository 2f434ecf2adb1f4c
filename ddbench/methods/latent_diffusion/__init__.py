"""What the methods that sample from a latent-diffusion model share."""
