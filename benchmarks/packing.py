"""Packing a dataset, and loading the pack, against the usual way: ImageFolder, Resize, stack.

    DDBENCH_DATA=DATA python benchmarks/packing.py [--dataset eurosat] [--dataset ucm] [--size 64]

Both read the same files and end with the same tensor: Pillow's Lanczos at the asked size (bilinear with --resize), of
the shorter side, cropped to the middle. Ours is written to disk and mapped; then it is loaded again in a process of its
own, where the new resident memory is what loading took beyond importing torch. Peak memory is that of the process that
asks, torch in it; the processes that it has pack many small images take about 60 MB each beside it. Prints a table
(median seconds, images per second, peak memory), then one JSON line for each dataset.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from tabulate import tabulate

OURS = """
import sys, time, json, resource
from pathlib import Path
import torch
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset

data_paths = DataPaths(Path(sys.argv[1]), Path(sys.argv[2]), True, sys.argv[5])
start = time.perf_counter()
data = find_dataset(sys.argv[3]).load(data_paths, int(sys.argv[4]))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
sides = (data.train, data.test)
total = sum(int(side.images.long().sum()) for side in sides)
print(json.dumps({"seconds": seconds, "peak": peak, "count": sum(len(s.labels) for s in sides), "sum": total}))
"""
AGAIN = """
import sys, time, json
from pathlib import Path
import torch
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset

resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
source = find_dataset(sys.argv[3])
before, start = resident(), time.perf_counter()
data = source.load(DataPaths(Path(sys.argv[1]), Path(sys.argv[2]), True, sys.argv[5]), int(sys.argv[4]))
print(json.dumps({"seconds": time.perf_counter() - start, "new": resident() - before}))
"""
USUAL = """
import sys, time, json, resource
from pathlib import Path
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from ddbench.datasets.info import DataPaths
from ddbench.datasets.folders import find_folders
from ddbench.datasets.lookup import find_dataset
folder = find_folders(find_dataset(sys.argv[3]), DataPaths(Path(sys.argv[1]), Path(sys.argv[2]))).base
size, way = int(sys.argv[4]), InterpolationMode(sys.argv[5])
start = time.perf_counter()
images = ImageFolder(folder, Compose([Resize(size, way), CenterCrop(size), PILToTensor()]))
all_of_them = torch.stack([image for image, _ in images])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
total = int(all_of_them.long().sum())
print(json.dumps({"seconds": seconds, "peak": peak, "count": len(images), "sum": total}))
"""


def run_code(code: str, *words: object) -> dict:
    """Run code in a fresh process; return the JSON that it prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


def one(root: Path, name: str, size: int, resize: str, repeat: int) -> dict:
    ours, usual = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as shared:
            given = (root, shared, name, size, resize)
            usual.append(run_code(USUAL, *given))
            ours.append(run_code(OURS, *given))
            again = run_code(AGAIN, *given)
    apart = abs(ours[0]["sum"] - usual[0]["sum"]) / (ours[0]["count"] * 3 * size * size)
    found = {"benchmark": "packing", "dataset": name, "size": size, "resize": resize, "images": ours[0]["count"]}
    for word, runs in (("usual", usual), ("ours", ours)):
        found[word] = {
            "seconds": statistics.median(run["seconds"] for run in runs), "peak_bytes": max(run["peak"] for run in runs)
        }  # fmt: skip
    return found | {"mean_difference": apart, "again_seconds": again["seconds"], "again_new_bytes": again["new"]}


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True)
@click.option("--dataset", "names", multiple=True, default=("eurosat", "ucm"))
@click.option("--size", default=64, show_default=True)
@click.option("--resize", type=click.Choice(["lanczos", "bilinear"]), default="lanczos", show_default=True)
@click.option("--repeat", default=3, show_default=True)
def main(data_root: Path, names: tuple[str, ...], size: int, resize: str, repeat: int) -> None:
    found, rows = [one(data_root, name, size, resize, repeat) for name in names], []
    for line in found:
        for word in ("usual", "ours"):
            seconds, peak = line[word]["seconds"], line[word]["peak_bytes"]
            ratio = line["usual"]["seconds"] / seconds
            rows.append([
                line["dataset"], word, f"{seconds:.2f}", f"{line['images'] / seconds:.0f}", f"{ratio:.2f}",
                f"{peak / 2**20:.0f}", "" if word == "usual" else f"{line['again_seconds']:.2f}",
                "" if word == "usual" else f"{line['again_new_bytes'] / 2**20:.0f}",
            ])  # fmt: skip
    heads = ("dataset", "way", "median s", "images/s", "times as fast", "peak MiB", "again s", "again new MiB")
    click.echo(tabulate(rows, heads))
    for line in found:
        click.echo(json.dumps(line | {"cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}))


if __name__ == "__main__":
    main()
