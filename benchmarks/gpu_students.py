"""Part of benchmarks/gpu.py: training students, by the evaluator and by a plain loop in the same run.

The plain loop is what one writes first: eager, images on the device as uint8, torchvision's v2 transforms on a whole
batch (one crop for all its images), the same network, recipe and precision, `.item()` every step. A training is the
numbers of dpd-scratch@1 for a number of steps on 100 images. Seconds of a step are those of the steps after the
warm-up; a whole training also builds the network, and compiled code is ready then.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from gpu_rows import Bench, Row, run_cases, take_turns
from students import CLASSES, row
from torch import Tensor, nn
from torchvision.transforms import v2

from evaluators.compilation import compiler_fallback
from evaluators.recipes import Recipe
from evaluators.students import build
from evaluators.train import precision, train_student

PART = "students"
PLAIN, OURS, EAGER, COMPILED = "plain loop", "ddbench", "ddbench, no graphs", "ddbench, compiled"
IPC = 10
WARM_UP = 20  # steps that the seconds of a step leave out, in trainings of more steps than twice as many


@dataclass(frozen=True)
class Training:
    """One training to measure. goal: the least ratio of a step's seconds, plain loop to ddbench; None for none."""

    student: str
    size: int
    batch: int
    steps: int
    goal: float | None = None

    @property
    def case(self) -> str:
        """The name of the case."""
        return f"{self.student}, {self.size} px, batch {self.batch}"


LARGE = (
    Training("convnet", 64, 16, 400, 3.0),
    Training("resnet18", 64, 16, 400, 3.0),
    Training("convnet", 64, 100, 150),
    Training("resnet18", 64, 100, 150),
    Training("resnet18", 256, 16, 80),
    Training("resnet18", 256, 64, 60),
    Training("resnet18", 256, 128, 60, 1.5),
)
SMALL = (Training("convnet", 32, 4, 4, 3.0),)


@dataclass
class StepClock:
    """Iterates over the steps of a training, as `train_student`'s progress, and times those after the warm-up."""

    bench: Bench
    warm_up: int
    seconds: list[float] = field(default_factory=list)  # of a step, one for each training

    def __call__(self, steps: Iterable[Any], description: str = "", total: int = 0) -> Iterator[Any]:
        """Yield the steps."""
        count, start = 0, 0.0
        for count, step in enumerate(steps):
            if count == self.warm_up:
                self.bench.synchronize()
                start = time.perf_counter()
            yield step
        self.bench.synchronize()
        self.seconds.append((time.perf_counter() - start) / (count + 1 - self.warm_up))


def plain_training(images: Tensor, labels: Tensor, student: str, recipe: Recipe, clock: StepClock) -> None:
    """Train as the head of this file says."""
    device, view = clock.bench.device, recipe.augment
    model = build(student, images.shape[-1], CLASSES, 0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    milestones = [round(m * recipe.min_steps) for m in recipe.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, recipe.gamma)
    augment = v2.Compose([
        v2.RandomResizedCrop(images.shape[-1], view.crop_area, view.crop_ratio, antialias=True),
        v2.RandomHorizontalFlip(view.flip_x),
        v2.RandomVerticalFlip(view.flip_y),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    images, labels = images.to(device), labels.to(device)
    order = torch.empty(0, dtype=torch.int64)
    for _ in clock(range(recipe.min_steps)):
        while len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(images))])
        index, order = order[: recipe.batch].to(device), order[recipe.batch :]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision(recipe, device) == "bf16"):
            loss = F.cross_entropy(model(augment(images[index])), labels[index])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        loss.item()


def drawn_set(size: int) -> tuple[Tensor, Tensor]:
    """Return CLASSES * IPC images of noise, uint8, and their labels."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * IPC, 3, size, size), dtype=torch.uint8, generator=numbers)
    return images, torch.arange(CLASSES).repeat_interleave(IPC)


def training_rows(bench: Bench, training: Training, compiled: bool) -> Iterator[Row]:
    """Yield the seconds of a step and of a whole training of each way: the plain loop's and ddbench's.

    compiled: ddbench through torch.compile, else as it is and, of trainings with a goal, without CUDA graphs.
    """
    protocol = row(training.student, training.batch, training.steps)
    images, labels = drawn_set(training.size)
    recipe, student = protocol.recipe(training.student), training.student
    warm_up, our_way = min(WARM_UP, training.steps // 2), COMPILED if compiled else OURS
    ours = [our_way, *([EAGER] if training.goal and not compiled and bench.device.type == "cuda" else [])]
    clocks = {way: StepClock(bench, warm_up) for way in (PLAIN, *ours)}
    ways: dict[str, Callable[[], Any]] = {
        PLAIN: partial(plain_training, images, labels, student, recipe, clocks[PLAIN])
    }
    for way in ours:
        ways[way] = partial(
            train_student, images, labels, student=student, protocol=protocol, num_classes=CLASSES, seed=0,
            device=bench.device, compiled=compiled, graphs=way != EAGER, progress=clocks[way],
        )  # fmt: skip
    measurements = take_turns(bench, ways, 1 if bench.small else 2)
    reference = measurements[PLAIN]
    figures = {name: value for name, value in vars(training).items() if name != "goal"}
    figures |= {"precision": precision(recipe, bench.device)}
    for way, m in measurements.items():
        if m.error:
            yield Row(PART, training.case, way, note=f"failed: {m.error}")
            continue
        step, whole = statistics.median(clocks[way].seconds[1:]), m.median
        is_ours = way != PLAIN
        plain_step = None if reference.error else statistics.median(clocks[PLAIN].seconds[1:])
        yield Row(
            PART, f"{training.case}, a step", way, step, training.batch / step, "images",
            ratio=plain_step / step if plain_step else None, goal=training.goal if way == our_way else None,
            peak_bytes=m.peak_bytes, figures=figures,
        )  # fmt: skip
        yield Row(
            PART, f"{training.case}, {training.steps} steps in all", way, whole,
            training.batch * training.steps / whole, "images",
            ratio=None if reference.error else reference.median / whole, peak_bytes=m.peak_bytes,
            note=f"{m.first - whole:.0f} s of compiling before" if compiled and is_ours else "",
            figures=figures | ({"compile_seconds": m.first - whole} if compiled and is_ours else {}),
        )  # fmt: skip


def compiled_rows(bench: Bench, training: Training) -> Iterator[Row]:
    """Yield the rows of a training through torch.compile."""
    with compiler_fallback():
        yield from training_rows(bench, training, compiled=True)


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part: first eager code, then compiled code of the trainings that have a goal."""
    trainings = SMALL if bench.small else LARGE
    # seconds on an H200: with a goal, three ways of three trainings each
    eager = {t.case: (25.0 if t.goal else 12.0, partial(training_rows, bench, t, False)) for t in trainings}
    compiled = {} if bench.small else {
        f"{t.case}, compiled": (30.0, partial(compiled_rows, bench, t)) for t in trainings if t.goal
    }  # fmt: skip
    yield from run_cases(PART, bench, eager | compiled)
