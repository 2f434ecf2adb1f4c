"""The cells of benchmarks/scaling.py: a task on so many images, classes and images per class, in this process.

    python benchmarks/scaling_cells.py '{"task": "herding", "images": 1000, "classes": 10, "ipc": 10}' FOLDER

Prepares the inputs below FOLDER (they stay for other cells), prints "start" and the private bytes of the process,
works, prints "done" and the seconds, by the clock and of the processor. Images are noise around a colour of their
class, 32 px; inputs are mapped from files, as ddbench maps packs and stages.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from leaderboard import make
from PIL import Image
from torch import Tensor

from ddbench.context import Context
from ddbench.types import ImageSet

SIZE = 32
ORIGINALS = 256  # image files at least; all others are links to them
MOST_LINKS = 20_000  # to one file: file systems allow 32 000 or more
WIDTHS = {"features": 2048, "quality": 512}  # of the convnet at 32 px, of a resnet18
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cell:
    """One measurement. results: of the leaderboard, which reads no images."""

    task: str
    images: int = 10_000
    classes: int = 10
    ipc: int = 10
    results: int = 1000


def private_bytes(process: int | str = "self") -> int:
    """Return the memory that a process holds for itself: without files that it maps, which the system may drop."""
    with open(f"/proc/{process}/status") as lines:
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def labels_of(cell: Cell) -> Tensor:
    """Return ascending labels of all images, as equally many of each class as can be."""
    return torch.arange(cell.images) * cell.classes // cell.images


def mapped(folder: Path, name: str, cell: Cell, row: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a row for each image, mapped from a file that is drawn the first time: noise around 20 centres a class."""
    path = folder / f"{name}-{cell.images}-{cell.classes}.raw"
    width = int(np.prod(row))
    if not path.exists():
        numbers = np.random.default_rng(0)
        labels = labels_of(cell).numpy()
        with open(path, "wb") as out:
            for start in range(0, cell.images, 4096):
                of_part = labels[start : start + 4096]
                keys = of_part * 20 + numbers.integers(0, 20, len(of_part))
                centres = np.stack([np.random.default_rng(key).normal(size=width) for key in np.unique(keys)])
                values = centres[np.unique(keys, return_inverse=True)[1]] + numbers.normal(size=(len(keys), width))
                if dtype == torch.uint8:
                    out.write(np.clip(128 + 32 * values, 0, 255).astype(np.uint8).tobytes())
                else:
                    out.write(torch.from_numpy(values).to(dtype).numpy().tobytes())
    count = cell.images * width
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype).view(cell.images, *row)


def image_set(cell: Cell, folder: Path) -> ImageSet:
    """Return the images, mapped."""
    classes = tuple(f"class{i:04d}" for i in range(cell.classes))
    labels = labels_of(cell)
    names = tuple(f"{classes[label]}/{i:07d}.png" for i, label in enumerate(labels.tolist()))
    images = mapped(folder, "images", cell, (3, SIZE, SIZE), torch.uint8)
    return ImageSet(images, labels, classes, classes, names)


def context(folder: Path) -> Context:
    """Return the context of a run whose stages are below an empty folder."""
    shared = folder / "stages"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir()
    return Context(0, CPU, shared, shared, "scaling", quiet=True)


def image_tree(cell: Cell, folder: Path) -> Path:
    """Return a folder of class folders: links to a few files, whose decoding costs as much as of as many files."""
    tree = folder / f"tree-{cell.images}-{cell.classes}"
    if not tree.exists():
        partial = folder / "tree.partial"
        shutil.rmtree(partial, ignore_errors=True)
        originals = folder / f"originals-{cell.images}"
        originals.mkdir(exist_ok=True)
        numbers, count = np.random.default_rng(0), max(ORIGINALS, -(-cell.images // MOST_LINKS))
        for i in range(count):
            pixels = np.clip(numbers.normal(128, 32, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(originals / f"{i}.png")
        for i, label in enumerate(labels_of(cell).tolist()):
            of_class = partial / f"class{label:04d}"
            if not of_class.is_dir():
                of_class.mkdir(parents=True)
            os.link(originals / f"{i % count}.png", of_class / f"{i:07d}.png")
        partial.rename(tree)
    return tree


def packing(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.datasets.info import DataPaths
    from ddbench.datasets.source import folder_source

    source = folder_source(image_tree(cell, folder))
    return lambda: source.load(DataPaths(None, context(folder).shared, quiet=True), SIZE)


def loading(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.datasets.info import DataPaths
    from ddbench.datasets.source import folder_source

    source, paths = folder_source(image_tree(cell, folder)), DataPaths(None, folder / "packs", quiet=True)
    source.load(paths, SIZE)
    return lambda: source.load(paths, SIZE)


def latents(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.methods.latent_diffusion.model import load_model
    from ddbench.methods.latent_diffusion.stages import Stages

    model = load_model("tiny", CPU)
    stages = Stages(model, image_set(cell, folder), context(folder), 64)
    model.encode(stages.train.images[:64], iter, 64)
    return stages.latents


def prototypes(cell: Cell, folder: Path) -> Callable[[], object]:
    from sklearn.cluster import KMeans  # noqa: F401  its import takes a second

    from ddbench.methods.latent_diffusion.latents import Latents
    from ddbench.methods.latent_diffusion.prototypes import embedding, find_prototypes

    train, mean = image_set(cell, folder), mapped(folder, "latents", cell, (8, 8, 8), torch.float16)
    latents = Latents(mean, mean, train.labels, 1.0)
    return lambda: find_prototypes(train, lambda rows: embedding(latents.means(rows)), cell.ipc, 1.0)


def embedding(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.methods.shared.selection import real_features

    train, ctx = image_set(cell, folder), context(folder)
    return lambda: real_features(train, ctx, "convnet", trained=False)


def herding(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.methods.herding import greedy_order
    from ddbench.methods.shared.selection import select

    train = image_set(cell, folder)
    features = mapped(folder, "features", cell, (WIDTHS["features"],), torch.float32)
    return lambda: select(train, cell.ipc, lambda rows, _: rows[greedy_order(features[rows], cell.ipc)])


def kcenter(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.methods.kcenter import farthest_first
    from ddbench.methods.shared.selection import select

    train = image_set(cell, folder)
    features = mapped(folder, "features", cell, (WIDTHS["features"],), torch.float32)
    return lambda: select(train, cell.ipc, lambda rows, _: rows[farthest_first(features[rows], cell.ipc, 0)])


def evaluation(cell: Cell, folder: Path) -> Callable[[], object]:
    """Read a distilled set, train a convnet on it for ten steps, test it on all images."""
    from students import row

    from ddbench.store import distilled_set
    from evaluators.accuracy import evaluate
    from evaluators.train import train_student

    test, path = image_set(cell, folder), folder / f"distilled-{cell.classes}-{cell.ipc}"
    if not path.exists():
        rows = torch.arange(cell.classes * cell.ipc) * len(test.labels) // (cell.classes * cell.ipc)
        path.mkdir()
        labels = torch.arange(cell.classes).repeat_interleave(cell.ipc)
        distilled_set.write(path, distilled_set.Pictures.from_distilled(test.distilled(test.images[rows], labels)))

    def work() -> object:
        pictures = distilled_set.read(path)
        model = train_student(
            pictures.to_tensor(), torch.from_numpy(pictures.labels), student="convnet",
            protocol=row("convnet", 16, 10), num_classes=cell.classes, seed=0, device=CPU,
        )  # fmt: skip
        return evaluate(model, test.images, test.labels, num_classes=cell.classes, device=CPU)

    return work


def quality(cell: Cell, folder: Path) -> Callable[[], object]:
    """FID, KID, precision, recall, density, coverage, DPD's coverage, from features."""
    from ddbench.runner.quality import feature_metrics
    from evaluators import fidelity

    real = mapped(folder, "quality", cell, (WIDTHS["quality"],), torch.float32)
    rows = torch.arange(cell.classes * cell.ipc) * len(real) // (cell.classes * cell.ipc)
    fake, labels = real[rows] + 0.1, labels_of(cell)

    def work() -> None:
        feature_metrics(real, fake)
        fidelity.intra_class_coverage(real, labels, fake, labels[rows])

    return work


def audit(cell: Cell, folder: Path) -> Callable[[], object]:
    """Both attacks and the distances of an audit, from features; every second image trains."""
    from evaluators import audit as auditing

    features = mapped(folder, "quality", cell, (WIDTHS["quality"],), torch.float32)
    labels = labels_of(cell).numpy()

    def work() -> None:
        train, test = (auditing.Side(auditing.unit_length(features[i::2].numpy()), labels[i::2]) for i in range(2))
        classes, numbers = [str(label) for label in range(cell.classes)], np.random.default_rng(0)
        rows = auditing.draw_rows(train.labels, [cell.ipc] * cell.classes, numbers)
        distilled, used = train.rows(rows), np.isin(np.arange(len(train.labels)), rows)
        scores = [auditing.highest_cosines(side, distilled)[0] for side in (train, test)]
        auditing.attack(scores[0], used, train.labels, classes)
        is_member = np.arange(cell.images) < len(train.labels)
        auditing.attack(np.concatenate(scores), is_member, np.concatenate([train.labels, test.labels]), classes)
        ratio = auditing.distance_ratio(distilled, train, test, numbers)
        auditing.distances(distilled, train, auditing.background_cosines(train, numbers), ratio)

    return work


def duplicates(cell: Cell, folder: Path) -> Callable[[], object]:
    """The pairs of near hashes of `data verify`; random hashes have none."""
    from ddbench.datasets.verification import close_pairs

    hashes = [int(word) for word in np.random.default_rng(0).integers(0, 2**63, cell.images, dtype=np.uint64)]
    return lambda: list(close_pairs(hashes))


def leaderboard(cell: Cell, folder: Path) -> Callable[[], object]:
    from ddbench.cli.main import cli

    runs = folder / f"runs-{cell.results}-{cell.classes}"
    if not runs.exists():
        make(runs, cell.results, tuple(f"class{i:04d}" for i in range(cell.classes)))

    def work() -> None:
        with redirect_stdout(io.StringIO()):
            cli(["--runs", str(runs), "leaderboard", "--format", "csv"], standalone_mode=False)

    return work


TASKS = {
    task.__name__: task
    for task in (
        packing, loading, latents, prototypes, embedding, herding, kcenter, evaluation, quality, audit, duplicates,
        leaderboard,
    )
}  # fmt: skip


def give_back_memory() -> None:
    """Return to the system what making the inputs has freed: the work would use it, and seem to need less."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    """Measure the cell of the command line."""
    cell, folder = Cell(**json.loads(sys.argv[1])), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    work = TASKS[cell.task](cell, folder)
    give_back_memory()
    print("start", private_bytes(), flush=True)
    begin, processor = time.perf_counter(), processor_seconds()
    work()
    print("done", time.perf_counter() - begin, processor_seconds() - processor, flush=True)


if __name__ == "__main__":
    main()
