"""The elements of procedural scenes: ground, woods, fields, water, roads, houses, vehicles, tanks.

Each function paints on a `Canvas`; `where` is the opacity (n, n) or a number, sizes are in picture widths. Every
element may be in pictures of any class, as the subject or as clutter.
"""

from __future__ import annotations

import math

import numpy as np

from ddbench.datasets.scenes.brushes import PAINTS, ROOFS, Array, Canvas, Cells, box, cells, steps

Where = Array | float
RIPE = np.array((0.78, 0.69, 0.36), np.float32)  # grain before harvest, rape in flower


def meadow(c: Canvas, where: Where = 1.0) -> None:
    """Paint grass and bare soil in patches."""
    patches = np.clip(0.5 + c.rng.uniform(-0.6, 0.6) + c.rng.uniform(0.2, 0.6) * c.noise(3, 4), 0, 1)
    c.paint(c.season.grass, where)
    c.paint(c.season.soil, patches * where)
    c.shade(1 + c.rng.uniform(0.02, 0.07) * c.noise(32, 2) * where)


def ground(c: Canvas, colour: Array, where: Where = 1.0, rough: float = 0.05) -> None:
    """Paint one colour, a little uneven."""
    c.paint(colour, where)
    c.shade(1 + (rough * c.noise(6, 4, 0.8)) * where)


def woods(c: Canvas, where: Where, size: float) -> None:
    """Paint tree crowns about `size` across, lit from the sun's side, over their own shadow."""
    c.paint(c.season.tree * 0.6, 0.85 * np.asarray(where, np.float32))
    for _ in range(2):
        u, v = c.turned()
        crowns(c, cells(c.rng, steps(u, size), steps(v, size)), size, where)


def crowns(c: Canvas, lattice: Cells, size: float, where: Where) -> None:
    """Paint one crown in every cell of a lattice."""
    a, b = lattice.a + lattice.value(-0.2, 0.2) * size, lattice.b + lattice.value(-0.2, 0.2) * size
    radius = lattice.value(0.28, 0.5) * size
    lit = 1 - (a * c.sun[0] + b * c.sun[1]) * (0.5 / (size * math.hypot(*c.sun)))
    colour = c.season.tree[:, None, None] * (lit * lattice.value(0.75, 1.35))
    c.paint(colour, c.ink(np.sqrt(a * a + b * b) - radius, 0.25 * size) * where)


def scattered_trees(c: Canvas, size: float, share: float) -> None:
    """Paint single trees with shadows, in a `share` of the places."""
    u, v = c.turned()
    lattice = cells(c.rng, steps(u, 2 * size), steps(v, 2 * size))
    mask = lattice.value(0, 1) < share
    distance = np.hypot(lattice.a, lattice.b) - lattice.value(0.25, 0.6) * size
    c.shade(1 - 0.5 * c.ink(np.hypot(lattice.a - 0.4 * size, lattice.b) - 0.5 * size) * mask)
    c.paint(c.season.tree * 0.9, c.ink(distance, 0.3 * size) * mask)


def crops(c: Canvas) -> Array:
    """Draw six colours of fields in this season, (6, 3)."""
    mix = c.rng.uniform(0, 1, (6, 4)).astype(np.float32) ** 2
    base = np.stack([c.season.grass, c.season.soil, 0.4 * c.season.tree + 0.6 * c.season.grass, RIPE])
    return (mix @ base) / mix.sum(1, keepdims=True) * c.rng.uniform(0.8, 1.2, (6, 1)).astype(np.float32)


def patchwork(c: Canvas, size: float, where: Where = 1.0) -> None:
    """Paint rectangular fields about `size` wide in columns of unequal division, ploughed one way or the other."""
    u, v = c.turned()
    width = size * c.rng.uniform(0.6, 1.3)
    column = steps(u, width)
    spare = Cells(u, v, column[0] & 31, c.rng)
    lattice = cells(c.rng, column, steps(v + spare.value(0, 1), spare.value(0.5, 1.8) * size))
    across = lattice.value(0, 1) < 0.5
    furrows = np.sin(np.where(across, u, v) * (math.tau / c.rng.uniform(0.035, 0.08)))
    c.paint(lattice.colour(crops(c), 0.04), where)
    c.shade(1 + (furrows * lattice.value(0.0, 0.1) + 0.04 * c.noise(8, 3)) * where)
    lane = c.ink(0.5 * width - np.abs(column[1]) - c.rng.uniform(0.003, 0.02))
    c.paint(c.season.soil if c.chance(0.5) else c.season.tree, 0.7 * lane * where)


def pivots(c: Canvas, size: float, share: float, where: Where = 1.0) -> None:
    """Paint center-pivot circles up to `size` across in a `share` of a lattice's cells, some half harvested."""
    u, v = c.turned()
    lattice = cells(c.rng, steps(u, size), steps(v, size))
    radius = np.hypot(lattice.a, lattice.b)
    disc = c.ink(radius - lattice.value(0.36, 0.5) * size) * (lattice.value(0, 1) < share) * where
    turn = lattice.value(0, math.tau)
    half = c.ink(lattice.a * np.cos(turn) + lattice.b * np.sin(turn)) * (lattice.value(0, 1) < 0.4)
    lush = 0.5 * (c.season.tree + c.season.grass) * np.array([0.75, 0.95, 0.7], np.float32)
    palette = 0.35 * crops(c) + 0.65 * lush
    c.paint(lattice.colour(palette), disc)
    c.paint(lattice.colour(palette), disc * half)
    rings = np.sin(radius * (math.tau / c.rng.uniform(0.03, 0.08))) * lattice.value(0, 0.07)
    c.shade(1 + (rings + 0.04 * c.noise(8, 3)) * disc)


def water(c: Canvas, where: Array, waves: float = 0.04) -> None:
    """Paint open water with a few waves."""
    u, _ = c.turned()
    ripple = np.sin(u * (math.tau / c.rng.uniform(0.03, 0.1)) + 1.5 * c.noise(4, 2))
    c.paint(c.season.water[:, None, None] * (1 + waves * ripple + 0.06 * c.noise(2, 4)), where)


def pond(c: Canvas, radius: float) -> None:
    """Paint a pond with an irregular shore somewhere."""
    x, y = c.rng.uniform(-0.45, 0.45, 2).tolist()
    distance = np.hypot(c.x - x, c.y - y) - radius * (1 + 0.2 * c.noise(8, 1))
    c.paint(c.season.soil, 0.5 * c.ink(distance - 0.015))
    water(c, c.ink(distance))


def road(c: Canvas, width: float, bend: float = 0.08, colour: Array | None = None) -> None:
    """Paint a road through the picture with a few vehicles and perhaps a centre line."""
    u, v = c.turned()
    v = v - c.wiggle(u, bend)
    c.paint(c.season.soil, 0.5 * c.ink(np.abs(v) - 0.8 * width))
    c.paint(c.season.asphalt if colour is None else colour, c.ink(np.abs(v) - 0.5 * width))
    if width > 0.04:
        c.paint(c.season.concrete, 0.6 * c.ink(np.abs(v) - 0.003))
        lanes = cells(c.rng, steps(u, 0.08), steps(v + 0.5 * width, 0.5 * width))
        vehicles(c, lanes, (0.02, 0.009), 0.3, c.ink(np.abs(v) - 0.5 * width))


def vehicles(c: Canvas, lattice: Cells, half: tuple[float, float], share: float, where: Where) -> None:
    """Paint a car, container or boat in a `share` of the cells: rectangles of half sizes `half` with a shadow."""
    mask = (lattice.value(0, 1) < share) * np.asarray(where, np.float32)
    a, b = lattice.a + lattice.value(-0.15, 0.15) * half[0], lattice.b
    c.shade(1 - 0.5 * c.ink(box(a - 0.4 * half[1], b - 0.4 * half[1], *half)) * mask)
    c.paint(lattice.colour(PAINTS), c.ink(box(a, b, *half)) * mask)


def lot(c: Canvas, frame: tuple[Array, Array], slot: float, where: Where) -> None:
    """Paint asphalt with double rows of parking slots `slot` wide, aisles between them, cars in some."""
    u, v = frame
    length = slot * c.rng.uniform(1.7, 2.2)
    lattice = cells(c.rng, steps(u, slot), steps(v, length, 2, length * c.rng.uniform(0.9, 1.4)))
    ground(c, c.season.asphalt, where)
    lines = c.ink(0.5 * slot - np.abs(lattice.a) - 0.06 * slot) * c.ink(np.abs(lattice.b) - 0.5 * length)
    c.paint(c.season.concrete, c.rng.uniform(0.1, 0.7) * lines * where)
    vehicles(c, lattice, (0.36 * slot, 0.42 * length), c.rng.uniform(0.15, 0.95), where)


def houses(c: Canvas, frame: tuple[Array, Array], size: float, where: Where = 1.0) -> None:
    """Paint rows of houses about `size` wide along streets: gardens, gabled roofs lit on one side, shadows."""
    u, v = frame
    street = size * c.rng.uniform(0.25, 0.6)
    depth = size * c.rng.uniform(0.9, 1.5)
    lattice = cells(c.rng, steps(u, size, int(c.rng.integers(4, 12)), street), steps(v, depth, 2, street))
    plots = c.ink(box(lattice.a, lattice.b, 0.5 * size, 0.5 * depth)) * where
    c.paint(c.season.asphalt, where)
    c.paint(lattice.colour(np.stack([c.season.grass, c.season.soil, c.season.concrete]), 0.03), plots)
    roofs(c, lattice, (size, depth), plots * (lattice.value(0, 1) < c.rng.uniform(0.8, 1.0)))
    if c.chance(0.6):
        scattered = cells(c.rng, steps(u + 0.3 * size, 0.7 * size), steps(v, 0.7 * size))
        crowns(c, scattered, 0.5 * size, plots * (scattered.value(0, 1) < c.rng.uniform(0.1, 0.5)))


def roofs(c: Canvas, lattice: Cells, size: tuple[float, float], where: Where) -> None:
    """Paint a gabled roof in every cell of `size`."""
    half = lattice.value(0.28, 0.47) * size[0], lattice.value(0.22, 0.4) * size[1]
    a, b = lattice.a, lattice.b + lattice.value(-0.08, 0.08) * size[1]
    reach = 0.22 * size[0]
    c.shade(1 - 0.55 * c.ink(box(a - reach * c.sun[0], b - reach * c.sun[1], *half)) * where)
    gable = 1 + lattice.value(0.0, 0.25) * np.sign(np.where(lattice.value(0, 1) < 0.5, a, b))
    kinds = ROOFS[c.rng.integers(len(ROOFS), size=3)]
    c.paint(lattice.colour(kinds, 0.06) * gable, c.ink(box(a, b, *half)) * where)


def building(c: Canvas, size: float) -> None:
    """Paint a large flat-roofed building with a shadow and something on its roof."""
    x, y = c.rng.uniform(-0.5, 0.5, 2).tolist()
    u, v = c.frame(c.rng.uniform(0, math.tau), x, y)
    half = size * c.rng.uniform(0.3, 0.7), size * c.rng.uniform(0.2, 0.5)
    shift = 0.3 * size
    c.shade(1 - 0.5 * c.ink(box(u - shift * c.sun[0], v - shift * c.sun[1], *half)))
    roof = c.ink(box(u, v, *half))
    c.paint(ROOFS[c.rng.integers(len(ROOFS))] * c.rng.uniform(0.8, 1.15), roof)
    c.shade(1 + c.rng.uniform(0.0, 0.15) * np.sign(np.sin(u * (math.tau / (0.3 * size)))) * roof)


def boats(c: Canvas, frame: tuple[Array, Array], size: float, where: Where) -> None:
    """Paint jetties with boats about `size` long moored on both sides of each."""
    u, v = frame
    gap = size * c.rng.uniform(0.5, 1.2)
    beam = size * c.rng.uniform(0.35, 0.5)
    rows = steps(v, size, 2, gap)
    lattice = cells(c.rng, steps(u, beam * 1.25), rows)
    deck = c.ink(np.abs(rows[1] + np.where(rows[0] & 1, 0.5, -0.5) * size) - 0.1 * size)
    taper = 0.5 * beam * np.clip(1.25 - np.square(lattice.b * (1.7 / size)), 0.05, 1)
    hull = np.maximum(np.abs(lattice.a) - 0.8 * taper, np.abs(lattice.b) - 0.44 * size)
    mask = (lattice.value(0, 1) < c.rng.uniform(0.3, 0.95)) * where
    c.paint(lattice.colour(PAINTS[[0, 0, 0, 1, 4, 3]]), c.ink(hull) * mask)
    c.paint(c.season.concrete * 0.9, deck * where)


def tank(c: Canvas, centre: tuple[float, float], radius: float, colour: Array) -> None:
    """Paint a cylindrical tank: cast shadow, wall, roof lit from one side with a rim and a dome."""
    u, v = c.x - centre[0], c.y - centre[1]
    far = np.hypot(u, v)
    for share in (0.5, 1.0):
        reach = share * 0.5 * radius
        c.shade(1 - 0.35 * c.ink(np.hypot(u - reach * c.sun[0], v - reach * c.sun[1]) - radius))
    lit = 1 - 0.12 * (u * c.sun[0] + v * c.sun[1]) / radius
    c.paint(colour[:, None, None] * (lit * (1 - 0.25 * (far > 0.88 * radius))), c.ink(far - radius))
