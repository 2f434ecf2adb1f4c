"""The embedded base model `tiny`, and the command that trains it (`python -m ddbench.methods.dpd.base`)."""

from pathlib import Path

FOLDER = Path(__file__).parent / "tiny"
"""The shipped pipeline folder, diffusers format, float16 safetensors."""
