"""Part of benchmarks/gpu.py: the same seed twice: are the images of a method, and the weights of a student, the same?

Every registered method distils a few images of `scenes` twice, sharing no stage, as `ddbench run` calls it. Methods
that optimise pixels do more iterations than `ddbench check` asks for, and are compared before rounding to 8 bits. Where
images differ, a row has the largest difference (grey values, 0 to 255) and the share of pixels that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_rows import Bench, Row, run_cases
from gpu_students import drawn_set
from students import CLASSES, row
from torch import Tensor

from ddbench import registry
from ddbench.context import Context, global_seed, seed_of
from ddbench.testing import sample
from ddbench.types import ImageSet
from evaluators.train import train_student

PART = "same seed"
IPC, SIZE, SMALL_SIZE = 2, 64, 32
STUDENTS = ("convnet", "resnet18", "vit_tiny")
LONGER: dict[str, dict[str, Any]] = {
    "dc": {"outer": 10, "inner": 2, "store_float": True}, "dsa": {"outer": 10, "inner": 2, "store_float": True},
    "dm": {"iterations": 30, "store_float": True}, "mtt": {"iterations": 5, "store_float": True},
    "sre2l": {"iterations": 30},
}  # fmt: skip


def images_of(bench: Bench, name: str, train: ImageSet, folder: Path) -> Tensor:
    """Return the images of a method, grey values 0..255: float where the method keeps them unrounded."""
    cls = registry.load_method(name)
    params = dict(cls.check_params) | ({} if bench.small else LONGER.get(name, {}))
    for part in ("work", "shared"):
        (folder / part).mkdir(parents=True)
    ctx = Context(0, bench.device, folder / "work", folder / "shared", "same-seed", quiet=True, method=name)
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with flags, global_seed(seed_of(0, "global"), bench.device):
        distilled = cls(**params).distill(train, 0 if cls.whole else IPC, ctx)
    return distilled.images.float() if distilled.float_images is None else 255 * distilled.float_images


def comparison(one: Tensor, other: Tensor) -> tuple[str, dict[str, Any]]:
    """Return words about the difference of two tensors, and its figures."""
    apart = (one - other).abs()
    largest, share = float(apart.max()), float((apart > 0).float().mean())
    words = "same" if largest == 0 else f"differ by up to {largest:.3g}, in {100 * share:.2g} % of the values"
    return words, {"same": largest == 0, "largest_difference": largest, "share": share}


def method_rows(bench: Bench, name: str) -> Iterator[Row]:
    """Yield whether a method gives the same images twice."""
    train = sample(max(registry.load_method(name).check_size, SMALL_SIZE if bench.small else SIZE))
    with TemporaryDirectory() as folder:
        ways = [partial(images_of, bench, name, train, Path(folder, turn)) for turn in ("first", "second")]
        (first, _, one), (second, peak, other) = map(bench.timed, ways)
    words, figures = comparison(one, other)
    yield Row(PART, name, "twice", second, peak_bytes=peak, note=words, figures=figures | {"first_seconds": first})


def student_rows(bench: Bench, student: str) -> Iterator[Row]:
    """Yield whether a student has the same weights twice."""
    images, labels = drawn_set(SMALL_SIZE if bench.small else SIZE)
    protocol = row(student, 16, 3 if bench.small else 100)
    train = partial(
        train_student, images, labels, student=student, protocol=protocol, num_classes=CLASSES, seed=0,
        device=bench.device,
    )  # fmt: skip
    (first, _, one), (second, peak, other) = (bench.timed(train) for _ in range(2))
    weights = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (one, other))
    words, figures = comparison(*weights)
    yield Row(
        PART, f"student {student}", "twice", second, peak_bytes=peak, note=words,
        figures=figures | {"first_seconds": first},
    )  # fmt: skip


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part: first the methods that differed on a GPU, then the students, then all others."""
    differed = ["dc", "dsa", "dm", "mtt", "sre2l"]
    others = [name for name in registry.names("methods") if name not in differed]
    methods, students = [*differed, *others], STUDENTS
    if bench.small:
        methods, students = ["dm", "random"], STUDENTS[:1]
    cases = {name: (1.0, partial(method_rows, bench, name)) for name in methods[: len(differed)]}
    cases |= {f"student {name}": (1.0, partial(student_rows, bench, name)) for name in students}
    cases |= {name: (1.0, partial(method_rows, bench, name)) for name in methods[len(differed) :]}
    yield from run_cases(PART, bench, cases)
