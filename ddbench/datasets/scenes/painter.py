"""Ten classes of procedural aerial scenes, drawn with NumPy.

A scene is a function of its label and index alone. It is painted in unit coordinates at twice the wanted size, blurred
by the optics and area-averaged; only the sensor's noise belongs to one size. Indices from TRAIN_START and TEST_START
make the `scenes` dataset; base models train on indices from BASE_START, which the dataset never reaches.

How hard it is: a ResNet-18 trained from scratch at 64 px reaches 94.8 % on all of train (100 per class, 625 steps) and
74.6 % on 10 random pictures per class (200 steps). Overall accuracy of the last step on 50 test pictures per class,
n = 1 seed each, bf16 autocast on a CPU, otherwise the recipe of quick@1 whose identity begins fef331e3c9db (AdamW, rate
0.001). An earlier recipe (SGD, rate 0.05; identity 1c74fe4a7f58), with which the difficulty was set by looking at these
same test accuracies, gave 90.2 % (n = 1) and 65.8, 70.4 % (n = 2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ddbench.datasets.scenes import elements as land
from ddbench.datasets.scenes.brushes import Array, Canvas, box, season

VERSION = 1  # goes up when a picture changes
TRAIN_START = 0
TEST_START = 1_000_000
BASE_START = 10_000_000

CLASSES: tuple[str, ...] = (
    "beach", "dense_housing", "fields", "forest", "harbour",
    "parking_lot", "pivot_circles", "river", "runway", "storage_tanks",
)  # fmt: skip
READABLE: tuple[str, ...] = (
    "beach",
    "dense housing area",
    "farm fields",
    "forest",
    "harbour with boats",
    "parking lot with cars",
    "center-pivot irrigation circles",
    "river",
    "airport runway",
    "storage tanks",
)

# usual climates and waters of each class, as `season` takes them
HABITATS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((0, 1, 3, 5), (3, 5)), ((0, 1, 2, 4), (0, 1)), ((0, 1, 2), (1, 2)), ((0, 0, 3), (0, 1)), ((0, 1, 4), (0, 5)),
    ((0, 2, 4), (0, 1)), ((1, 5), (1, 5)), ((0, 2, 3), (0, 1, 3)), ((0, 0, 3), (0, 1)), ((1, 4, 5), (0, 4)),
)  # fmt: skip

WHITE = np.array((0.92, 0.93, 0.93), np.float32)  # foam, clouds, paint


def scene(label: int, index: int, size: int) -> Array:
    """Draw one picture: uint8 (size, size, 3), red, green, blue.

    label: 0..9, a position in CLASSES. index: any number from 0; another index is another picture. Raises ValueError.
    """
    if not 0 <= label < len(CLASSES) or index < 0 or size < 1:
        raise ValueError(
            f"scene({label}, {index}, {size}): label must be 0..{len(CLASSES) - 1}, index 0 or more, size 1 or more"
        )
    key = hashlib.sha256("\0".join(("scenes", CLASSES[label], str(index))).encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "big")))
    n = 2 * size
    axis = ((np.arange(n) + 0.5) / n - 0.5).astype(np.float32)
    x, y = np.broadcast_to(axis, (n, n)), np.broadcast_to(axis[:, None], (n, n))
    angle, length = rng.uniform(0, math.tau), rng.uniform(0.3, 1.2)
    sun = length * math.cos(angle), length * math.sin(angle)
    canvas = Canvas(np.zeros((3, n, n), np.float32), x, y, rng, season(rng, *HABITATS[label]), sun)
    PAINTERS[label](canvas)
    _clutter(canvas)
    _weather(canvas)
    return _sense(canvas, size)


def _countryside(c: Canvas, where: Array | float = 1.0, built: float = 0.2) -> None:
    """Paint the surroundings: meadow, fields, woods, bare ground or, with probability `built`, houses."""
    kind = c.rng.random()
    if kind < built:
        land.houses(c, c.turned(), c.rng.uniform(0.06, 0.14), where)
    elif kind < built + 0.25:
        land.patchwork(c, c.rng.uniform(0.15, 0.5), where)
    elif kind < built + 0.4:
        land.woods(c, where, c.rng.uniform(0.03, 0.08))
    else:
        land.meadow(c, where)


def _beach(c: Canvas) -> None:
    _countryside(c, built=0.3)
    u, v = c.frame(c.rng.uniform(0, math.tau))
    shore = v - c.wiggle(u, c.rng.uniform(0.01, 0.12)) - c.rng.uniform(-0.25, 0.3)
    width = c.rng.uniform(0.05, 0.35)
    land.ground(c, c.season.sand, c.ink(shore - width * (1 + 0.2 * c.noise(4, 3)), 0.02))
    c.shade(1 - 0.2 * c.ink(shore - 0.03, 0.03))
    land.water(c, c.ink(shore, 0.02), 0.05)
    c.paint(c.season.sand, 0.45 * c.ink(shore, 0.2) * c.ink(-shore - 0.25, 0.3) * c.ink(shore))
    for _ in range(c.rng.integers(0, 4)):  # lines of foam along the shore
        line = np.abs(shore + c.rng.uniform(0.0, 0.12) + 0.01 * c.noise(6, 2))
        c.paint(WHITE, c.rng.uniform(0.3, 0.9) * c.ink(line - c.rng.uniform(0.003, 0.012)))


def _dense_housing(c: Canvas) -> None:
    frame = c.turned()
    land.houses(c, frame, c.rng.uniform(0.06, 0.17))
    if c.chance(0.5):
        other = c.turned()
        land.houses(c, other, c.rng.uniform(0.06, 0.17), c.ink(other[1]))
    if c.chance(0.3):
        land.road(c, c.rng.uniform(0.03, 0.09))
    if c.chance(0.25):
        u, v = c.turned()
        land.meadow(c, c.ink(box(u, v, c.rng.uniform(0.05, 0.2), 0.1)))


def _fields(c: Canvas) -> None:
    land.patchwork(c, c.rng.uniform(0.14, 0.6))
    if c.chance(0.3):
        land.patchwork(c, c.rng.uniform(0.14, 0.5), c.ink(c.turned()[1]))
    if c.chance(0.1):
        land.pivots(c, c.rng.uniform(0.3, 0.6), 0.2)
    if c.chance(0.2):
        land.woods(c, c.ink(c.noise(2, 3) * 0.2 + 0.25, 0.03), c.rng.uniform(0.03, 0.07))


def _forest(c: Canvas) -> None:
    _countryside(c, built=0.1)
    gaps = c.noise(2, 4) * 0.2 - c.rng.uniform(0.1, 0.5)
    land.woods(c, c.ink(gaps, 0.02), c.rng.uniform(0.035, 0.1))


def _harbour(c: Canvas) -> None:
    _countryside(c, built=0.4)
    u, v = c.frame(c.rng.uniform(0, math.tau))
    edge = v - c.rng.uniform(-0.2, 0.35)
    basin = np.maximum(edge, np.abs(u) - c.rng.uniform(0.25, 0.9))
    quay = c.rng.uniform(0.03, 0.2)
    land.ground(c, c.season.concrete, c.ink(basin - quay))
    land.water(c, c.ink(basin))
    frame = (u, v) if c.chance(0.5) else (v, u)
    reach = c.ink(basin + 0.02) * c.ink(-edge - c.rng.uniform(0.15, 0.6))
    land.boats(c, frame, c.rng.uniform(0.06, 0.16), reach)


def _parking_lot(c: Canvas) -> None:
    _countryside(c, built=0.5)
    for _ in range(c.rng.integers(0, 3)):
        land.building(c, c.rng.uniform(0.2, 0.5))
    u, v = c.frame(c.rng.uniform(0, math.tau), *c.rng.uniform(-0.2, 0.2, 2).tolist())
    area = c.ink(box(u, v, c.rng.uniform(0.25, 0.7), c.rng.uniform(0.2, 0.6)))
    land.lot(c, (u, v), c.rng.uniform(0.025, 0.06), area)


def _pivot_circles(c: Canvas) -> None:
    if c.chance(0.2):
        land.patchwork(c, c.rng.uniform(0.2, 0.5))
    else:
        land.meadow(c)
        c.paint(c.season.soil, c.rng.uniform(0.2, 0.9))
    land.pivots(c, c.rng.uniform(0.22, 0.45), c.rng.uniform(0.8, 1.0))


def _river(c: Canvas) -> None:
    _countryside(c, built=0.2)
    u, v = c.frame(c.rng.uniform(0, math.tau), *c.rng.uniform(-0.25, 0.25, 2).tolist())
    middle = np.abs(v - c.wiggle(u, c.rng.uniform(0.03, 0.25)))
    width = c.rng.uniform(0.06, 0.15) * (1 + 0.15 * c.noise(3, 2))
    bank = c.rng.uniform(0.0, 0.08) * (1 + 0.5 * c.noise(3, 2))
    if c.chance(0.55):
        land.woods(c, c.ink(middle - width - bank - c.rng.uniform(0.02, 0.1)), c.rng.uniform(0.03, 0.06))
    land.ground(c, c.season.sand if c.chance(0.5) else c.season.soil, c.ink(middle - width - bank, 0.02))
    land.water(c, c.ink(middle - width), 0.02)
    if c.chance(0.3):
        land.road(c, c.rng.uniform(0.02, 0.06), 0.02)


def _runway(c: Canvas) -> None:
    _countryside(c, built=0.1)
    u, v = c.frame(c.rng.uniform(0, math.tau), *c.rng.uniform(-0.25, 0.25, 2).tolist())
    half, end = c.rng.uniform(0.05, 0.11), c.rng.uniform(0.1, 0.8)
    colour = c.season.asphalt * 0.8 if c.chance(0.75) else c.season.concrete
    land.meadow(c, c.ink(np.abs(v) - half * c.rng.uniform(1.5, 5)))
    if c.chance(0.6):
        land.ground(c, colour * 0.95, c.ink(np.abs(v - half * c.rng.uniform(2.5, 4)) - 0.4 * half))
    if c.chance(0.4):
        land.ground(c, c.season.concrete, c.ink(box(u - c.rng.uniform(-0.5, 0.5), v - 3 * half, 0.15, 3 * half)))
    land.ground(c, colour, c.ink(box(u - end + 1.0, v, 1.0, half)))
    # paint: a broken centre line, the threshold's stripes
    on = c.rng.uniform(0.7, 1.0) * c.ink(box(u - end + 1.03, v, 1.0, half))
    c.paint(WHITE, on * c.ink(np.abs(v) - 0.08 * half) * (np.sin(u * 60) > -0.3))
    stripes = (np.sin(v * (math.tau * 2.5 / half)) > 0) * (np.abs(v) < 0.85 * half)
    c.paint(WHITE, on * c.ink(np.abs(u - end + 0.1) - 0.045) * stripes)


def _storage_tanks(c: Canvas) -> None:
    _countryside(c, built=0.15)
    u, v = c.frame(c.rng.uniform(0, math.tau))
    surface = (c.season.soil, c.season.concrete, c.season.sand)[c.rng.integers(3)]
    land.ground(c, surface, c.ink(box(u, v, c.rng.uniform(0.3, 0.8), c.rng.uniform(0.3, 0.8))), 0.08)
    # up to nine tanks of one paint on a square lattice
    spacing = c.rng.uniform(0.18, 0.38)
    turn, (x, y) = c.rng.uniform(0, math.tau), c.rng.uniform(-0.3, 0.3, 2).tolist()
    cos, sin = spacing * math.cos(turn), spacing * math.sin(turn)
    colour = np.full(3, c.rng.uniform(0.62, 0.95), np.float32) + c.rng.normal(0, 0.03, 3).astype(np.float32)
    places = [(i, j) for i in range(-1, 2) for j in range(-1, 2) if c.chance(0.75) or i == j == 0]
    for i, j in places:
        radius, shade = spacing * c.rng.uniform(0.3, 0.46), c.rng.uniform(0.85, 1.05)
        land.tank(c, (i * cos - j * sin + x, i * sin + j * cos + y), radius, colour * shade)


PAINTERS: tuple[Callable[[Canvas], None], ...] = (
    _beach, _dense_housing, _fields, _forest, _harbour, _parking_lot, _pivot_circles, _river, _runway, _storage_tanks,
)  # fmt: skip


def _clutter(c: Canvas) -> None:
    """Paint things that any picture may contain."""
    if c.chance(0.18):
        land.road(c, c.rng.uniform(0.012, 0.05))
    if c.chance(0.15):
        land.building(c, c.rng.uniform(0.06, 0.2))
    if c.chance(0.08):
        land.pond(c, c.rng.uniform(0.04, 0.12))
    if c.chance(0.12):
        land.scattered_trees(c, c.rng.uniform(0.03, 0.07), c.rng.uniform(0.05, 0.4))


def _weather(c: Canvas) -> None:
    """Add clouds, haze, the colour and slant of the light."""
    if c.chance(0.1):
        clouds = np.clip(0.6 * (c.noise(2, 5) - c.rng.uniform(0.8, 1.6)), 0, 0.9)
        c.paint(WHITE, clouds)
    grey = c.pixels.mean(0)
    c.paint(np.stack([grey] * 3), c.rng.uniform(-0.15, 0.3))
    haze = np.array([0.66, 0.70, 0.76], np.float32) * c.rng.uniform(0.8, 1.1)
    c.paint(haze, c.rng.uniform(0.0, 0.22))
    tint = np.exp(c.rng.normal(0, 0.03, (3, 1, 1))).astype(np.float32)
    slope = c.x * c.rng.uniform(-0.2, 0.2) + c.y * c.rng.uniform(-0.2, 0.2)
    c.shade(tint * (c.rng.uniform(0.75, 1.2) * (1 + slope)))


def _sense(c: Canvas, size: int) -> Array:
    """Apply optics and sensor: blur, area averaging, noise, eight bits."""
    taps = _optics(size, int(c.rng.integers(6)))
    sigma = c.rng.uniform(0.0, 0.02)
    light = _halve(_halve(c.pixels, taps).swapaxes(1, 2), taps).swapaxes(1, 2)
    light += sigma * c.rng.standard_normal(light.shape, np.float32)
    return np.ascontiguousarray((light.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _halve(planes: Array, taps: Array) -> Array:
    """Halve the rows of (3, n, m): weigh neighbours with an even number of taps; the border is continued."""
    reach = len(taps) // 2 - 1
    padded = np.pad(planes, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    n = planes.shape[1]
    return sum(padded[:, k : k + n : 2] * tap for k, tap in enumerate(taps))


@lru_cache(maxsize=64)
def _optics(size: int, level: int) -> Array:
    """Return the taps of a Gaussian of 0.0015 picture widths per level and a mean of two neighbours; float32, sum 1."""
    sigma = max(0.0015 * level * 2 * size, 1e-6)
    reach = math.ceil(2.5 * sigma) if level else 0
    blur = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(blur / blur.sum(), [0.5, 0.5]).astype(np.float32)
