"""A referee: a ResNet-18 trained on EuroSAT's real training split judges reconstructions and distilled images.

    python benchmarks/referee.py train --data-root DATA --work DIR
    python benchmarks/referee.py train --split holdout --data-root DATA --work DIR      another, for choices
    python benchmarks/referee.py reconstructions --data-root DATA --work DIR     the embedded base's autoencoder
    python benchmarks/referee.py distilled RUN/distilled... --data-root DATA --work DIR        several: all their images

It is used in no training and for no choice: neither the base model nor any method sees it. Choices need a second
network, `--split holdout`: trained from another seed without every tenth training image, and tested on those. Each
command prints a table, then one JSON line of figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate
from torch.nn import functional as F
from tqdm.auto import tqdm

from ddbench.base_model import FOLDER
from ddbench.base_model.card import psnr, reconstruct
from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.store import distilled_set as tree
from ddbench.types import Dataset, ImageSet
from evaluators.accuracy import Scores, evaluate
from evaluators.batches import batches
from evaluators.recipes import Augment, Recipe
from evaluators.students import Student, build
from evaluators.train import learning_rate

SIZE = 64
HELD_BACK = 10  # every tenth training image is kept from the network of `--split holdout`
SPLITS = ("test", "holdout")
options = [
    click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True),
    click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared")),
    click.option("--work", type=click.Path(path_type=Path), default=Path("work")),
]


def with_options(command):
    for option in options:
        command = option(command)
    return command


def eurosat(data_root: Path, shared: Path) -> Dataset:
    return EUROSAT.load(DataPaths(data_root, shared), SIZE)


def real_images(data: Dataset, split: str, every: int = HELD_BACK) -> ImageSet:
    """The images to test on: the test split, or for "holdout" every tenth (`every`) image of the training split."""
    return data.test if split == "test" else part(data.train, slice(None, None, every))


def train_images(data: Dataset, split: str, every: int = HELD_BACK) -> ImageSet:
    """The training split, for "holdout" without the images that are held back."""
    if split == "test":
        return data.train
    return part(data.train, torch.arange(len(data.train.labels)) % every != 0)


def part(images: ImageSet, rows: slice | torch.Tensor) -> ImageSet:
    """The images of some rows: a slice, or a boolean for each image."""
    return images.rows(torch.arange(len(images.labels))[rows])


def recipe(epochs: int) -> Recipe:
    return Recipe(
        "adamw", lr=1e-3, weight_decay=0.05, batch=64, epochs=epochs, min_steps=100, max_steps=5000,
        augment=Augment(flip_x=0.5, flip_y=0.5, transpose=0.5),
    )  # fmt: skip


def trained(images: torch.Tensor, labels: torch.Tensor, how: Recipe, bf16: bool, seed: int = 0) -> Student:
    """A ResNet-18 after the last step. Autocast is entered anew in every step: it keeps copies of the weights."""
    net = build("resnet18", SIZE, len(EUROSAT.classes), seed).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), how.lr, weight_decay=how.weight_decay, fused=True)
    steps = how.steps(len(images))
    for step, (x, y) in zip(tqdm(range(steps), mininterval=10), batches(images, labels, how, seed), strict=False):
        optimizer.param_groups[0]["lr"] = learning_rate(how, step, steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
    return net.eval()


def weights(work: Path, split: str = "test") -> Path:
    """The file of the trained referee's weights."""
    return work / ("referee.safetensors" if split == "test" else f"referee-{split}.safetensors")


def referee(work: Path, split: str = "test") -> Student:
    """The trained referee; a click error names the command that trains it when it is missing."""
    if not (file := weights(work, split)).exists():
        raise click.ClickException(f"{file} is missing: benchmarks/referee.py train --split {split} --work {work}")
    net = build("resnet18", SIZE, len(EUROSAT.classes), 0)
    net.load_state_dict(load_file(file))
    return net.eval()


def judge(net: Student, images: torch.Tensor, labels: torch.Tensor) -> Scores:
    return evaluate(net, images, labels, num_classes=len(EUROSAT.classes), device="cpu")


def report(columns: dict[str, Scores], **figures: Any) -> None:
    rows = [[c, *(f"{100 * s.per_class[i]:.1f}" for s in columns.values())] for i, c in enumerate(EUROSAT.classes)]
    rows.append(["overall", *(f"{100 * s.overall:.1f}" for s in columns.values())])
    print(tabulate(rows, ["class", *columns]))
    print(json.dumps({name: s.overall for name, s in columns.items()} | figures))


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@with_options
@click.option("--epochs", default=3, show_default=True)
@click.option("--bf16", is_flag=True, help="autocast, faster where the CPU has the instructions")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="what it is tested on")
def train(epochs: int, bf16: bool, split: str, **place: Path) -> None:
    """Train the referee and test it on real images (tested in fp32)."""
    data, work = eurosat(place["data_root"], place["shared"]), place["work"]
    seen, test = train_images(data, split), real_images(data, split)
    net = trained(seen.images, seen.labels, recipe(epochs), bf16, SPLITS.index(split))
    work.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, weights(work, split))
    report({f"real {split}": judge(net, test.images, test.labels)})


@main.command()
@with_options
@click.option("--base", type=click.Path(path_type=Path), default=FOLDER, help="a pipeline folder")
def reconstructions(data_root: Path, shared: Path, work: Path, base: Path) -> None:
    """Real test images against the same images through the base's autoencoder."""
    test, net = eurosat(data_root, shared).test, referee(work)
    made = reconstruct(load_model(str(base), torch.device("cpu")).vae, test.images)
    both = {"real": judge(net, test.images, test.labels), "reconstructed": judge(net, made, test.labels)}
    report(both, psnr_db=psnr(test.images, made))


@main.command()
@with_options
@click.argument("folders", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def distilled(data_root: Path, shared: Path, work: Path, folders: tuple[Path, ...]) -> None:
    """The share of the distilled sets' images that the referee puts in their class, all together and set by set."""
    sets, net = [tree.read(folder) for folder in folders], referee(work)
    images = [torch.from_numpy(s.images).permute(0, 3, 1, 2).contiguous() for s in sets]
    labels = [torch.from_numpy(s.labels) for s in sets]
    apart = [judge(net, *each).overall for each in zip(images, labels, strict=True)]
    report({"distilled": judge(net, torch.cat(images), torch.cat(labels))}, sets=apart)


if __name__ == "__main__":
    main()
