"""The embedded base model `tiny`, and the command that trains it (`python -m ddbench.base_model`)."""

from ddbench.methods.latent_diffusion.model_files import EMBEDDED

FOLDER = EMBEDDED["tiny"]
"""The shipped pipeline folder, diffusers format, float16 safetensors."""
