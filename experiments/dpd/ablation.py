"""Measure the effect of each part of DPD on real images with the embedded base model.

    python experiments/dpd/ablation.py run --data-root DATA [--runs runs --shared shared] [--seeds 3]
    python experiments/dpd/ablation.py record --data-root DATA [--runs runs]
    python experiments/dpd/ablation.py table
    python experiments/dpd/ablation.py sheet --dataset ucm --output ucm.jpg
    python experiments/dpd/ablation.py folders --dataset eurosat     for benchmarks/referee.py distilled FOLDER...

`run` calls `ddbench run` for every row of PLAN, one student and one seed after another, so that a table with n = 1 is
complete early. It skips what is done or recorded. Run two datasets in two processes with OMP_NUM_THREADS=1. `record`
adds the results of the runs folder to ablation.jsonl beside this file, one line per student, so several machines can
share the work. `table` prints the records: mean, sample standard deviation and n over distillation seeds, overall
accuracy in %. Nothing else uses the test split. Rows that no seed changes have one distillation. `sheet` shows two
images of every class for every row except random, in the order of PLAN: prototypes, reconstructions, samples.
`folders` prints the folders of the distilled sets, row by row.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from ddbench.datasets.info import DataPaths
from ddbench.leaderboard import table as leaderboard
from ddbench.runner import plan as planning
from ddbench.runner import run as runner
from ddbench.store import distilled_set
from ddbench.store.reader import read_runs
from ddbench.store.records import StoredResult
from ddbench.utils import contact_sheet
from ddbench.utils.files import write_bytes

STUDENTS = ("convnet", "resnet18")
DATASETS = ("eurosat", "ucm")
SIZE, IPC = 64, 10
TEMPLATE = "captioner=template"
FIGURES = Path(__file__).with_suffix(".jsonl")

# row -> method, preset, what differs from it
PLAN = {
    "random (real images)": ("random", None, ()),
    "prototypes as they are": ("kmeans", "tiny", ("features=latents", "choice=margin")),
    "prototypes through the autoencoder": ("dpd", "tiny-paper", ("strength=0",)),
    "template only": ("dpd", "tiny-paper", (TEMPLATE, "consistency=0", "strength=1")),
    "+ prototype start": ("dpd", "tiny-paper", (TEMPLATE, "consistency=0")),
    "+ consistency loss": ("dpd", "tiny-paper", (TEMPLATE,)),
    "+ text: tiny-paper": ("dpd", "tiny-paper", ()),
    "template only, fine-tuned as tiny-tgrs": ("dpd", "tiny-tgrs", ("candidates=1", "pull=0")),
    "guidance only": ("dpd", "tiny-tgrs", ("candidates=1",)),
    "+ selection: tiny-tgrs": ("dpd", "tiny-tgrs", ()),
    "prototypes of tiny-plus": ("kmeans", "ridge", ()),
    "... through the autoencoder": ("dpd", "tiny-plus", ("strength=0", "decoder_steps=0")),
    "... through its decoder": ("dpd", "tiny-plus", ("strength=0",)),
    "tiny-plus, the base's decoder": ("dpd", "tiny-plus", ("decoder_steps=0",)),
    "tiny-plus, one candidate": ("dpd", "tiny-plus", ("candidates=1",)),
    "tiny-plus": ("dpd", "tiny-plus", ()),
}

# every seed gives the same images
SEEDLESS = {row for row, (method, _, sets) in PLAN.items() if method == "kmeans" or "strength=0" in sets}


def planned(row: str, dataset: str, seeds: tuple[int, ...], data_paths: DataPaths, students=STUDENTS) -> planning.Plan:
    """One row of the table on one dataset."""
    method, preset, sets = PLAN[row]
    request = planning.Request(method, dataset, (IPC,), SIZE, preset, None, sets, seeds)
    return planning.plan(request, planning.evaluation_setup(students, "quick", 1), data_paths)


def recorded() -> dict[tuple[str, str, str, int], dict]:
    """(row, dataset, student, distillation seed) -> what was measured."""
    lines = FIGURES.read_text(encoding="utf-8").splitlines() if FIGURES.exists() else []
    found = map(json.loads, lines)
    return {(one["row"], one["dataset"], one["student"], one["seed"]): one for one in found}


def figures_of(entry: StoredResult, row: str) -> dict:
    """What is recorded of one student."""
    spec, result = entry.spec, entry.result
    cell = {"row": row, "dataset": spec.dataset, "student": result.student, "seed": spec.seed}
    how = {"device": result.device, "torch": result.versions["torch"], "commit": result.commit}
    return cell | {"overall": result.overall, "content": result.content} | how


def words(cell: leaderboard.Cell | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{100 * cell.mean:.1f}{spread} (n={cell.n})"


options = [
    click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True),
    click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared")),
    click.option("--runs", type=click.Path(path_type=Path), envvar="DDBENCH_RUNS", default=Path("runs")),
    click.option("--seeds", default=3, show_default=True),
]


def with_options(command):
    for option in options:
        command = option(command)
    return command


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@with_options
@click.option("--dataset", "datasets", multiple=True, default=DATASETS, show_default=True)
def run(data_root: Path, shared: Path, runs: Path, seeds: int, datasets: tuple[str, ...]) -> None:
    """Do what is missing."""
    data_paths, failed, known = DataPaths(data_root, shared, True), 0, recorded()
    for student, seed, dataset, row in product(STUDENTS, range(seeds), datasets, PLAN):
        if (row, dataset, student, seed) in known or (seed and row in SEEDLESS):
            continue
        click.echo(f"{student} on {dataset}, seed {seed}: {row}")
        settings = planning.ExecutionSettings(runs, data_paths, quiet=True)
        failed += runner.run(planned(row, dataset, (seed,), data_paths, (student,)), settings).failed
    sys.exit(failed > 0)


@main.command()
@with_options
def record(data_root: Path, shared: Path, runs: Path, seeds: int) -> None:
    """Add what is there to ablation.jsonl."""
    data_paths, entries, known = DataPaths(data_root, shared, True), read_runs(runs).results, recorded()
    entries = [entry for entry in entries if (entry.result.protocol_version, entry.result.seed) == (1, 0)]
    for row, dataset in product(PLAN, DATASETS):
        wanted = {spec.digest for spec in planned(row, dataset, tuple(range(seeds)), data_paths).specs}
        found = [figures_of(entry, row) for entry in entries if entry.spec.digest in wanted]
        known |= {(row, dataset, one["student"], one["seed"]): one for one in found}
    order = sorted(known, key=lambda key: (key[1:3], list(PLAN).index(key[0]), key[3]))
    lines = [json.dumps(known[key]) for key in order]
    write_bytes(FIGURES, "".join(f"{line}\n" for line in lines).encode())


@main.command()
def table() -> None:
    """Print what is recorded."""
    known = recorded()
    columns = list(product(DATASETS, STUDENTS))
    lines = []
    for row in PLAN:
        cells = [
            [([key[3]], [one["overall"]]) for key, one in known.items() if key[:3] == (row, *column)]
            for column in columns
        ]
        lines.append([row, *(words(leaderboard.make_cell(cell) if cell else None) for cell in cells)])
    print(tabulate(lines, ["", *map(" ".join, columns)], tablefmt="github"))


@main.command()
@with_options
@click.option("--dataset", type=click.Choice(DATASETS), required=True)
def folders(data_root: Path, shared: Path, runs: Path, seeds: int, dataset: str) -> None:
    """Where the distilled sets of every row lie."""
    for row, found in distilled_sets(dataset, tuple(range(seeds)), DataPaths(data_root, shared, True), runs).items():
        click.echo("\t".join([row, *map(str, found)]))


@main.command()
@with_options
@click.option("--dataset", type=click.Choice(DATASETS), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def sheet(data_root: Path, shared: Path, runs: Path, seeds: int, dataset: str, output: Path) -> None:
    """Two images of every class by every row but random, of the first seed, as a picture."""
    found = distilled_sets(dataset, (0,), DataPaths(data_root, shared, True), runs)
    sets = [distilled_set.read(folder) for row, there in found.items() for folder in there if PLAN[row][0] != "random"]
    labels = np.concatenate([s.labels for s in sets])
    shown = np.concatenate([_first(s.labels, 2) for s in sets])
    images = np.concatenate([s.images for s in sets])[shown]
    page = distilled_set.Pictures(images, labels[shown], sets[0].classes, None, {})
    contact_sheet.draw_sheet(page.images, page.labels, page.classes).reduce(2).save(output, quality=85)


def _first(labels: np.ndarray, count: int) -> np.ndarray:
    """Whether each is among the first `count` of its label."""
    return np.array([np.count_nonzero(labels[:i] == label) < count for i, label in enumerate(labels)])


def distilled_sets(dataset: str, seeds: tuple[int, ...], data_paths: DataPaths, runs: Path) -> dict[str, list[Path]]:
    """Row -> its distilled sets that are there."""
    plans = {row: planned(row, dataset, seeds, data_paths) for row in PLAN}
    every = {row: [spec.folder(runs) / "distilled" for spec in plan.specs] for row, plan in plans.items()}
    return {row: [folder for folder in found if folder.is_dir()] for row, found in every.items()}


if __name__ == "__main__":
    main()
