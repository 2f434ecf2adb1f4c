"""Distil with these settings and train small students on the images: a quick comparison on held-back images.

    python experiments/closing/screen.py --dataset folder:held/ucm --method diffusion --preset tiny --set guidance=4

The student is a ConvNet of 32, 64 and 128 channels with group norm, at half the size, trained for 400 steps of 64
images. Three of them take two minutes on one core, three students of `quick@1` fifteen. Prints one JSON line with the
accuracies on the dataset's test split: name a dataset of held-back training images (`hold_back.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.datasets.info import DataPaths
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.store import distilled_set

SIZE, STEPS, BATCH, RATE = 64, 400, 64, 2e-3


def small(images: Tensor) -> Tensor:
    """Return float images at half the size of uint8 images (n, 3, h, w)."""
    return F.avg_pool2d(images.float() / 255 - 0.45, 2) * 4


def student(classes: int) -> nn.Module:
    """Build the network."""

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(b // 8, b), nn.ReLU(), nn.AvgPool2d(2)]

    cells = (SIZE // 2 // 8) ** 2
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(128 * cells, classes))


def trained(x: Tensor, y: Tensor, classes: int, seed: int) -> nn.Module:
    """Train it on small images x: AdamW, a rate that falls to zero, turned, mirrored and shifted batches."""
    torch.manual_seed(seed)
    net = student(classes)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        rows = torch.randint(len(x), (BATCH,))
        images, shifts = x[rows], torch.randint(-4, 5, (2,)).tolist()
        for change in (lambda b: b.flip(2), lambda b: b.flip(3), lambda b: b.transpose(2, 3)):
            images = change(images) if torch.rand(()) < 0.5 else images
        loss = F.cross_entropy(net(images.roll(shifts, (2, 3))), y[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared"))
@click.option("--runs", type=click.Path(path_type=Path), envvar="DDBENCH_RUNS", default=Path("choices"))
@click.option("--dataset", required=True)
@click.option("--method", default="diffusion", show_default=True)
@click.option("--preset")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@click.option("--ipc", default=10, show_default=True)
def main(  # noqa: PLR0913
    data_root: Path | None, shared: Path, runs: Path, dataset: str, method: str, preset: str | None,
    sets: tuple[str, ...], ipc: int,
) -> None:  # fmt: skip
    """Print the mean accuracy of three students, their deviation and each one's."""
    settings = planning.ExecutionSettings(runs, DataPaths(data_root, shared))
    request = planning.Request(method, dataset, (ipc,), SIZE, preset, None, sets)
    plan = planning.plan(request, planning.evaluation_setup((), "quick", 1), settings.data_paths)
    if run.run(plan, settings).failed:
        raise SystemExit(1)
    pictures = distilled_set.read(plan.specs[0].folder(settings.runs) / "distilled")
    data = plan.source.load(settings.data_paths, SIZE)
    x, test = small(pictures.to_tensor()), small(data.test.images[:])
    right = []
    for seed in range(3):
        net = trained(x, torch.from_numpy(pictures.labels), len(data.train.classes), seed)
        with torch.no_grad():
            right.append(100 * (net(test).argmax(1) == data.test.labels).double().mean().item())
    row = {"dataset": dataset, "method": method, "preset": preset, "sets": sets, "ipc": ipc}
    mean, std = torch.tensor(right).mean().item(), torch.tensor(right).std().item()
    print(json.dumps(row | {"mean": round(mean, 1), "std": round(std, 1), "students": [round(r, 1) for r in right]}))


if __name__ == "__main__":
    main()
