"""Brushes of the procedural scenes: a canvas in unit coordinates, smooth noise, lattices of cells, seasons.

Nothing here depends on the number of pixels except the sharpness of edges: every random table has a fixed shape, so
the same generator paints the same picture at any size. Arrays are float32; colours are red, green, blue in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Array = np.ndarray
Colour = tuple[float, float, float]
TABLE = 1024  # random values a lattice draws; cells further apart than 32 repeat, which is never within one picture

CLIMATES: tuple[tuple[Colour, Colour, Colour], ...] = (  # grass, tree, soil
    ((0.36, 0.45, 0.24), (0.16, 0.26, 0.13), (0.52, 0.42, 0.30)),  # temperate summer
    ((0.56, 0.53, 0.35), (0.27, 0.31, 0.18), (0.64, 0.54, 0.40)),  # dry grassland
    ((0.46, 0.42, 0.25), (0.40, 0.29, 0.15), (0.45, 0.36, 0.27)),  # autumn
    ((0.29, 0.44, 0.18), (0.10, 0.25, 0.11), (0.55, 0.34, 0.23)),  # tropics, red earth
    ((0.56, 0.55, 0.48), (0.31, 0.29, 0.24), (0.60, 0.57, 0.51)),  # leafless winter
    ((0.70, 0.61, 0.46), (0.33, 0.35, 0.21), (0.76, 0.65, 0.50)),  # desert
)
WATERS: tuple[Colour, ...] = (
    (0.09, 0.17, 0.25), (0.17, 0.29, 0.26), (0.40, 0.36, 0.27),
    (0.17, 0.43, 0.48), (0.25, 0.35, 0.43), (0.12, 0.27, 0.40),
)  # fmt: skip
ROOFS = np.array([
    (0.62, 0.36, 0.27), (0.50, 0.48, 0.47), (0.40, 0.32, 0.28),
    (0.80, 0.79, 0.77), (0.66, 0.58, 0.48), (0.36, 0.42, 0.50),
], np.float32)  # fmt: skip
PAINTS = np.array([  # vehicles, boats
    (0.90, 0.90, 0.90), (0.72, 0.73, 0.75), (0.13, 0.13, 0.15),
    (0.60, 0.14, 0.13), (0.15, 0.24, 0.48), (0.40, 0.41, 0.42),
], np.float32)  # fmt: skip


@dataclass(frozen=True)
class Season:
    """The colours of one picture's land, each a red, green, blue triple in 0..1."""

    grass: Array
    tree: Array
    soil: Array
    sand: Array
    water: Array
    asphalt: Array
    concrete: Array


def season(rng: np.random.Generator, climates: tuple[int, ...], waters: tuple[int, ...]) -> Season:
    """Draw colours: three times in four of the given positions in CLIMATES and WATERS, else of any.

    A little of another climate is mixed in, so that neighbouring pictures rarely share colours.
    """
    usual, other = rng.random(2) < 0.75, rng.integers(len(CLIMATES), size=2)
    first = climates[rng.integers(len(climates))] if usual[0] else other[0]
    pair = np.array(CLIMATES, np.float32)[[first, other[1]]]
    grass, tree, soil = pair[0] + rng.uniform(0.0, 0.35) * (pair[1] - pair[0])
    choice = waters if usual[1] else range(len(WATERS))
    water = np.array(WATERS[choice[rng.integers(len(choice))]], np.float32)
    sand = np.array((0.80, 0.73, 0.58), np.float32) * rng.uniform(0.75, 1.1)
    asphalt, concrete = np.full(3, rng.uniform(0.24, 0.46)), np.full(3, rng.uniform(0.55, 0.76))
    drawn = (grass, tree, soil, sand, water, asphalt, concrete)
    return Season(*((colour + rng.normal(0, 0.025, 3)).clip(0.03, 0.95).astype(np.float32) for colour in drawn))


@dataclass(frozen=True)
class Canvas:
    """A picture being painted.

    pixels: float32 (3, n, n), changed in place. x, y: float32 (n, n), pixel centres, -0.5..0.5. sun: how far and where
    a shadow falls, relative to the height of what casts it.
    """

    pixels: Array
    x: Array
    y: Array
    rng: np.random.Generator
    season: Season
    sun: tuple[float, float]

    def paint(self, colour: Array, cover: Array | float = 1.0) -> None:
        """Paint a colour, (3,) or (3, n, n), over the pixels; cover (n, n) in 0..1 is its opacity."""
        layer = np.asarray(colour, np.float32)
        layer = (layer if layer.ndim == 3 else layer[:, None, None]) - self.pixels
        layer *= cover
        np.add(self.pixels, layer, out=self.pixels)

    def shade(self, factor: Array | float) -> None:
        """Multiply the brightness by a factor, (n, n)."""
        np.multiply(self.pixels, factor, out=self.pixels)

    def ink(self, distance: Array, soft: float = 0.0) -> Array:
        """Return the cover 0..1 of negative signed distances (picture widths); the edge is a pixel or `soft` wide."""
        return np.clip(0.5 - distance * (1.0 / max(soft, 1.0 / len(self.x))), 0.0, 1.0)

    def frame(self, angle: float, x: float = 0.0, y: float = 0.0) -> tuple[Array, Array]:
        """Return coordinates (u, v) of every pixel, rotated by `angle` around the point (x, y)."""
        cos, sin = math.cos(angle), math.sin(angle)
        return (self.x - x) * cos + (self.y - y) * sin, (self.y - y) * cos - (self.x - x) * sin

    def turned(self) -> tuple[Array, Array]:
        """Return a frame at a random angle around a random point."""
        return self.frame(self.rng.uniform(0, math.tau), *self.rng.uniform(-0.5, 0.5, 2).tolist())

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < probability

    def noise(self, cells: int, octaves: int = 3, gain: float = 0.55) -> Array:
        """Draw smooth noise (n, n), mean 0, deviation about 1: `cells` bumps across, each octave twice as fine."""
        total, power = np.zeros_like(self.x), 0.0
        for octave in range(octaves):
            table = self.rng.standard_normal(2 * ((cells << octave) + 3,), np.float32)
            total += _spline(_spline(table, len(self.x), 1) * np.float32(2.09 * gain**octave), len(self.x), 0)
            power += gain ** (2 * octave)
        return total / math.sqrt(power)

    def wiggle(self, u: Array, amplitude: float) -> Array:
        """Draw a smooth curve over u: three sines, largest excursion about `amplitude`."""
        phases, waves = self.rng.uniform(0, math.tau, 3).tolist(), self.rng.uniform(2.5, 7.5, 3).tolist()
        first, second, third = (np.sin(u * (waves[k] * (k + 1)) + phases[k]) for k in range(3))
        return (amplitude / 1.6) * (first + 0.6 * second + 0.36 * third)


def _spline(table: Array, n: int, axis: int) -> Array:
    """Interpolate a table along an axis at n pixels by a cubic B-spline; a matrix product would start threads."""
    first, weights = _taps(n, table.shape[axis] - 3)
    weights = weights if axis else weights[:, :, None]
    total = table.take(first, axis) * weights[0]
    for k in range(1, 4):
        total += table.take(first + k, axis) * weights[k]
    return total


@lru_cache(maxsize=64)
def _taps(n: int, cells: int) -> tuple[Array, Array]:
    """Return the first of four table entries, and their weights (4, n), for n pixel centres on `cells` intervals."""
    t = (np.arange(n) + 0.5) / n * cells
    first = t.astype(int)
    f = t - first
    weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]) / 6
    return first, weights.astype(np.float32)


@dataclass(frozen=True)
class Cells:
    """A lattice of cells. a, b: float32 (n, n), position from the cell's centre. key: (n, n), number of the cell."""

    a: Array
    b: Array
    key: Array
    rng: np.random.Generator

    def value(self, low: float, high: float) -> Array:
        """Draw a number in low..high per cell, (n, n)."""
        return (self.rng.random(TABLE, np.float32) * (high - low) + low).take(self.key)

    def colour(self, palette: Array, spread: float = 0.05) -> Array:
        """Draw a colour per cell, (3, n, n), from the rows of `palette`, varied in brightness and hue by `spread`."""
        table = palette[self.rng.integers(len(palette), size=TABLE)].T
        bright, hue = (self.rng.standard_normal((k, TABLE), np.float32) for k in (1, 3))
        return (table + spread * (bright + 0.4 * hue)).clip(0.02, 0.98).take(self.key, axis=1)


def cells(rng: np.random.Generator, along: tuple[Array, Array], across: tuple[Array, Array]) -> Cells:
    """Cut two coordinates, each a result of `steps`, into cells."""
    key = (along[0] & 31) * 32 + (across[0] & 31)
    return Cells(along[1], across[1], key, rng)


def steps(t: Array, step: Array | float, group: int = 1, gap: float = 0.0) -> tuple[Array, Array]:
    """Return the number of the step that t falls in, and the offset from its centre; a gap follows every `group` steps.

    A point in a gap counts to the step before it, with an offset of more than half a step.
    """
    period = group * step + gap
    run = np.floor(t / period)
    rest = t - run * period
    place = np.minimum(np.floor(rest / step), group - 1)
    return (run * group + place).astype(np.int32), rest - (place + 0.5) * step


def box(a: Array, b: Array, half_a: Array | float, half_b: Array | float) -> Array:
    """Return the signed distance (largest coordinate) to an upright rectangle around 0."""
    return np.maximum(np.abs(a) - half_a, np.abs(b) - half_b)
