"""Test that D4M starts from cluster centres."""

from __future__ import annotations

import pytest

from ddbench.methods.d4m import D4M
from ddbench.methods.latent_diffusion.starts import cluster_centres


def test_d4m_starts_from_the_centres(stages, pipeline, few_scenes, context_of):
    """With hardly any noise on them, its images are the centres'."""
    made = D4M(base=str(pipeline), strength=0.01, scheduler="DDIMScheduler", guidance=1.0, steps=100)
    found = made.distill(few_scenes, 2, context_of())
    decoded = stages.model.decode(cluster_centres(stages.train, stages.latents(), 2)[0], 8)
    assert (found.images.float() - decoded.float()).abs().mean() < 6


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="strength"):
        D4M(strength=0.0)
