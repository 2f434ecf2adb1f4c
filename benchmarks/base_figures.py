"""Figures of a base model, by name, for `base_model.py`: its samples, reconstructions and students."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from referee import HELD_BACK, SIZE, real_images, train_images
from torch import Tensor
from tqdm.auto import tqdm

from ddbench.base_model.card import psnr, reconstruct
from ddbench.base_model.data import SATELLITE
from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.rs.ucm import UCM
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, guided_denoiser, interval_scale, sample
from ddbench.methods.latent_diffusion.model import LatentModel, load_model
from ddbench.methods.latent_diffusion.schedulers import check_steps
from ddbench.methods.shared.device import in_batches
from ddbench.utils.files import digest, read_json
from evaluators.accuracy import Scores, scores
from evaluators.fidelity import kid, nearest_distances
from evaluators.students import Student, features

CPU = torch.device("cpu")
BATCH = 50  # samples at a time
STUDENTS = {"eurosat": "resnet18", "ucm": "convnet"}
HELD_BACK_OF = {"eurosat": HELD_BACK, "ucm": 3}  # UC Merced has 50 training images of a class

# options that methods have too
SAMPLING = ("steps", "spacing", "guidance", "guidance_low", "guidance_high", "scheduler")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Settings of the measurement, the same for all bases.

    split: the real images to compare with, test or holdout.
    count: samples of a class.
    stride: every stride-th real image is reconstructed.
    steps, spacing, guidance, guidance_low, guidance_high, scheduler: of sampling, as methods name them.
    """

    data_root: Path
    shared: Path
    work: Path
    split: str
    count: int
    stride: int
    steps: int
    spacing: str
    guidance: float
    guidance_low: float
    guidance_high: float
    scheduler: str


@dataclass(frozen=True)
class Seen:
    """Images (n, 3, h, w), uint8, and what the referee makes of them: features (n, d), logits (n, classes)."""

    images: Tensor
    labels: Tensor
    features: Tensor
    logits: Tensor

    @property
    def scores(self) -> Scores:
        return scores(self.labels, self.logits)

    @property
    def pixels(self) -> Tensor:
        """Flattened, 0..1."""
        return self.images.flatten(1).float() / 255


@torch.no_grad()
def see(net: Student, images: Tensor, labels: Tensor) -> Seen:
    """Compute what the referee makes of images (n, 3, h, w), uint8."""
    x = features(net, images)
    return Seen(images, labels, x, net.head(x))


def draw(model: LatentModel, caption: str, label: int, count: int, options: Options) -> Tensor:
    """`count` images (n, 3, s, s), uint8, of a caption, from pure noise; image i is drawn from seed i.

    label: the class, for a base that is conditioned by class.
    """
    condition, empty = model.encode_prompts([caption, ""], [label, -1]).split(1)
    shape = model.vae.config.latent_channels, SIZE // model.factor, SIZE // model.factor

    def some(rows: slice) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(count)[rows]]
        n = len(generators)
        scheduler = model.make_scheduler(options.scheduler, spacing=options.spacing)
        times = len(scheduler.alphas_cumprod)
        denoise = guided_denoiser(
            model.denoise,
            condition.expand(n, *condition.shape[1:]),
            empty.expand(n, *empty.shape[1:]),
            interval_scale(options.guidance, options.guidance_low, options.guidance_high, times),
        )
        nothing, config = torch.zeros(n, *shape), SamplerConfig(options.steps)
        return sample(denoise, scheduler, nothing, config, generators)[0]

    return model.decode(torch.cat(list(in_batches(some, count, BATCH))), BATCH)


def draw_all(model: LatentModel, options: Options) -> tuple[Tensor, Tensor, Figures]:
    """Samples of every class of EuroSAT, their labels, and the seconds of 100 images: medians of the classes.

    seconds: by the clock, what the bar means on idle cores. cpu_seconds: of all cores together, on a busy machine too.
    """
    images, clock, cpu = [], [], []
    for label, name in enumerate(tqdm(EUROSAT.readable, "samples", mininterval=10)):
        start = time.perf_counter(), time.process_time()
        images.append(draw(model, SATELLITE.format(name), label, options.count, options))
        clock.append((time.perf_counter() - start[0]) * 100 / options.count)
        cpu.append((time.process_time() - start[1]) * 100 / options.count)
    labels = torch.arange(len(images)).repeat_interleave(options.count)
    return torch.cat(images), labels, {"seconds": statistics.median(clock), "cpu_seconds": statistics.median(cpu)}


def measure(base: Path, net: Student, real: Seen, options: Options) -> tuple[LatentModel, Seen, Figures]:
    model = load_model(str(base), CPU)
    check_steps(model.make_scheduler(options.scheduler, spacing=options.spacing), options.steps)
    images, labels, seconds = draw_all(model, options)
    samples = see(net, images, labels)
    size = sum(file.stat().st_size for file in base.rglob("*") if file.is_file())
    figures = {"identity": model.identity, "prediction": model.prediction, "megabytes": size / 1e6} | seconds
    figures |= drawn_figures(samples, real) | reconstruction_figures(model, net, real, options.stride)
    return model, samples, figures


def in_class(images: Seen) -> Figures:
    """Share of images that the referee puts in their class, %, overall and by class."""
    shares = zip(EUROSAT.classes, images.scores.per_class, strict=True)
    return {"in_class": 100 * images.scores.overall} | {f"in_class_{name}": 100 * share for name, share in shares}


def drawn_figures(samples: Seen, real: Seen) -> Figures:
    """Share in class (%), KID, and nearest neighbours, of samples and of real images."""
    figures = in_class(samples) | {"kid": kid(real.features, samples.features)}
    for space in ("features", "pixels"):
        among_samples, among_real = nearest_distances(
            getattr(real, space), real.labels, getattr(samples, space), samples.labels
        )
        figures[f"nearest_{space}"] = statistics.fmean(among_samples)
        figures[f"nearest_{space}_real"] = statistics.fmean(among_real)
        figures[f"nearest_{space}_ratio"] = statistics.fmean(among_samples) / statistics.fmean(among_real)
        ratios = [a / b for a, b in zip(among_samples, among_real, strict=True)]
        figures[f"nearest_{space}_ratios"] = dict(zip(EUROSAT.classes, ratios, strict=True))
    return figures


def reconstruction_figures(model: LatentModel, net: Student, real: Seen, stride: int) -> Figures:
    """PSNR in dB, and points of accuracy that the referee loses."""
    images, labels = real.images[::stride], real.labels[::stride]
    reconstructed = reconstruct(model.vae, images)
    before, after = scores(labels, real.logits[::stride]), see(net, reconstructed, labels).scores
    return {"psnr": psnr(images, reconstructed), "reconstruction_loss": 100 * (before.overall - after.overall)}


def student_figures(base: Path, identity: str, options: Options) -> Figures:
    """Accuracy (%) of students of `diffusion`, by `ddbench run`; mean and sample standard deviation of three seeds."""
    figures: Figures = {}
    for dataset, student in STUDENTS.items():
        name = dataset if options.split == "test" else f"{dataset}@{holdout_file(dataset, options)}"
        sampling = [f"{key}={getattr(options, key)}" for key in SAMPLING]
        runs = options.work / f"runs-{digest([identity, name, *sampling])[:12]}"
        command = ["--runs", runs, "--data-root", options.data_root, "--shared", options.shared]
        command += ["run", "--method", "diffusion", "--preset", "tiny", "--dataset", name, "--size", SIZE, "--ipc", 10]
        command += ["--seeds", 3, "--student", student, "--protocol", "quick@1"]
        for setting in (f"base={base.resolve()}", *sampling):
            command += ["--set", setting]
        if subprocess.run([sys.executable, "-m", "ddbench", *map(str, command)], stdout=sys.stderr).returncode:
            click.echo(f"no figure of {student} on {name}: the run above failed", err=True)
            continue
        paths = sorted(runs.glob(f"*/*/*/*/results/*/{student}-*.json"))
        accuracies = [100 * read_json(path)["overall"] for path in paths]
        figures[f"student_{dataset}"] = statistics.fmean(accuracies)
        figures[f"student_{dataset}_std"] = statistics.stdev(accuracies)
        figures[f"student_{dataset}_seeds"] = accuracies
    return figures


def holdout_file(dataset: str, options: Options) -> Path:
    """The CSV of a split of the training images alone: some are held back and tested on."""
    facts, every = {"eurosat": EUROSAT, "ucm": UCM}[dataset], HELD_BACK_OF[dataset]
    data = facts.load(DataPaths(options.data_root, options.shared), SIZE)
    path = (options.work / f"{dataset}-holdout.csv").resolve()
    sides = {"train": train_images(data, "holdout", every), "test": real_images(data, "holdout", every)}
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "split"])
        rows.writerows((name, side) for side, images in sides.items() for name in images.names)
    return path
