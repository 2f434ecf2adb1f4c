"""What each part of DPD does, on real images with the embedded base model.

    python experiments/dpd/ablation.py run --data-root DATA [--runs runs --shared shared] [--seeds 3]
    python experiments/dpd/ablation.py table [--runs runs] [--seeds 3]
    python experiments/dpd/ablation.py sheet --dataset ucm --output ucm.jpg
    python experiments/dpd/ablation.py folders --dataset eurosat     for benchmarks/referee.py distilled FOLDER...

`run` is `ddbench run` of every row of PLAN, student after student and seed after seed, so that a table with n = 1 is
there early; what is done is not done again. Two datasets are best done by two processes with OMP_NUM_THREADS=1.
`table` prints the rows that are there: mean, sample standard deviation and n over distillation seeds, overall accuracy
in %; then one JSON line of figures. The test split is looked at by the table only. `sheet` shows two images of every
class by every row of DPD, in the order of PLAN. `folders` prints, row by row, where the distilled sets lie.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from ddbench import contact, distilled, leaderboard, runner
from ddbench.datasets.facts import Place
from ddbench.runs import Entry, RunSpec, scan

STUDENTS = ("convnet", "resnet18")
DATASETS = ("eurosat", "ucm")
SIZE, IPC = 64, 10
TEMPLATE = "captioner=template"

# row -> method, preset, what differs from it
PLAN = {
    "random (real images)": ("random", None, ()),
    "template only": ("dpd", "tiny-paper", (TEMPLATE, "consistency=0", "strength=1")),
    "+ prototype start": ("dpd", "tiny-paper", (TEMPLATE, "consistency=0")),
    "+ consistency loss": ("dpd", "tiny-paper", (TEMPLATE,)),
    "+ text: tiny-paper": ("dpd", "tiny-paper", ()),
    "guidance only": ("dpd", "tiny-tgrs", ("candidates=1",)),
    "+ selection: tiny-tgrs": ("dpd", "tiny-tgrs", ()),
}


def planned(row: str, dataset: str, seeds: tuple[int, ...], place: Place, students=STUDENTS) -> runner.Plan:
    """One row of the table on one dataset."""
    method, preset, sets = PLAN[row]
    request = runner.Request(method, dataset, IPC, SIZE, preset, None, sets, seeds)
    return runner.plan(request, runner.jury(students, "quick", 1), place)


def accuracies(entries: list[Entry], specs: tuple[RunSpec, ...], student: str) -> list[list[float]]:
    """Per distillation, the overall accuracies of this kind of student."""
    wanted = {spec.digest for spec in specs}
    by_run: dict[str, list[float]] = {}
    for entry in entries:
        result = entry.result
        if entry.spec.digest in wanted and (result.student, result.protocol_version) == (student, 1):
            by_run.setdefault(entry.spec.digest, []).append(result.overall)
    return list(by_run.values())


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
    place, failed = Place(data_root, shared, True), 0
    for student, seed, dataset, row in product(STUDENTS, range(seeds), datasets, PLAN):
        click.echo(f"{student} on {dataset}, seed {seed}: {row}")
        setting = runner.Setting(runs, place, quiet=True)
        failed += runner.run(planned(row, dataset, (seed,), place, (student,)), setting).failed
    sys.exit(failed > 0)


@main.command()
@with_options
def table(data_root: Path, shared: Path, runs: Path, seeds: int) -> None:
    """Print what is there."""
    place, (entries, _) = Place(data_root, shared, True), scan(runs)
    figures: dict[str, dict[str, list[float]]] = {}
    lines = []
    for row in PLAN:
        plans = {dataset: planned(row, dataset, tuple(range(seeds)), place) for dataset in DATASETS}
        found = {f"{d} {s}": accuracies(entries, p.specs, s) for d, p in plans.items() for s in STUDENTS}
        lines.append([row, *(words(leaderboard.cell(f) if f else None) for f in found.values())])
        figures[row] = {name: [values[0] for values in f] for name, f in found.items()}
    print(tabulate(lines, ["", *next(iter(figures.values()))], tablefmt="github"))
    print(json.dumps({"experiment": "dpd ablation", "overall": figures}))


@main.command()
@with_options
@click.option("--dataset", type=click.Choice(DATASETS), required=True)
def folders(data_root: Path, shared: Path, runs: Path, seeds: int, dataset: str) -> None:
    """Where the distilled sets of every row lie."""
    for row, found in distilled_sets(dataset, tuple(range(seeds)), Place(data_root, shared, True), runs).items():
        click.echo("\t".join([row, *map(str, found)]))


@main.command()
@with_options
@click.option("--dataset", type=click.Choice(DATASETS), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def sheet(data_root: Path, shared: Path, runs: Path, seeds: int, dataset: str, output: Path) -> None:
    """Two images of every class by every row of DPD, of the first seed, as a picture."""
    found = distilled_sets(dataset, (0,), Place(data_root, shared, True), runs)
    sets = [distilled.read(folder) for row, there in found.items() for folder in there if PLAN[row][0] == "dpd"]
    labels = np.concatenate([s.labels for s in sets])
    shown = np.concatenate([_first(s.labels, 2) for s in sets])
    images = np.concatenate([s.images for s in sets])[shown]
    page = distilled.Pictures(images, labels[shown], sets[0].classes, None, {})
    contact.sheet(page).reduce(2).save(output, quality=85)


def _first(labels: np.ndarray, count: int) -> np.ndarray:
    """Whether each is among the first `count` of its label."""
    return np.array([np.count_nonzero(labels[:i] == label) < count for i, label in enumerate(labels)])


def distilled_sets(dataset: str, seeds: tuple[int, ...], place: Place, runs: Path) -> dict[str, list[Path]]:
    """Row -> its distilled sets that are there."""
    plans = {row: planned(row, dataset, seeds, place) for row in PLAN}
    every = {row: [spec.folder(runs) / "distilled" for spec in plan.specs] for row, plan in plans.items()}
    return {row: [folder for folder in found if folder.is_dir()] for row, found in every.items()}


if __name__ == "__main__":
    main()
