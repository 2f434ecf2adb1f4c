"""Test random selection."""

from __future__ import annotations

from ddbench.methods.random import Random


def test_random_follows_the_seed(few_scenes, context_of):
    first, same, other = (Random().distill(few_scenes, 2, context_of(s)).names for s in (5, 5, 6))
    assert first == same != other
