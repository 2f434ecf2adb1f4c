"""`ddbench robustness`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli.common import GlobalOptions, filter_results, report_problems
from ddbench.errors import UserError

if TYPE_CHECKING:
    from ddbench.leaderboard.ranking_robustness import RobustnessRow
    from evaluators.recipes import Protocol

PLACE = {"dataset": "dataset", "size": "px", "ipc": "ipc", "student": "student", "init": "init",
         "precision": "precision", "fingerprint": "split", "judge": "judge"}  # fmt: skip
WHERE_DIFFERENT = ("precision", "fingerprint", "judge")
PERCENT = ("own", "hard", "plain", "ior", "hlr")


@click.command()
@click.option("--dataset", metavar="NAME", help="Only this dataset.")
@click.option("--ipc", type=click.IntRange(min=1), help="Only this number of images per class.")
@click.option("--own", metavar="NAME@VERSION", default="quick@1", show_default=True, help="Protocol to examine.")
@click.option("--hard", metavar="NAME@VERSION", help="Variant with hard labels.  [default: NAME-hard of --own]")
@click.option("--plain", metavar="NAME@VERSION", help="Variant without augmentation.  [default: NAME-plain of --own]")
@click.option(
    "--weight", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The paper's weights w and g."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "markdown", "json")),
    default="text",
    show_default=True,
    help="Output format.",
)
@click.pass_obj
def robustness(
    options: GlobalOptions, dataset: str | None, ipc: int | None, weight: float, form: str, **roles: Any
) -> None:
    """Compute how far a ranking depends on the protocol.

    The scores are DD-Ranking's (arXiv:2505.13300).

    \b
      IOR  gain over `random` under --own
      HLR  loss against `full` under --hard
      LRS  label-robust score, 0 to 1
      ARS  augmentation-robust score, 0 to 1

    They are computed from stored results; nothing is trained. A missing result is a dash: compute it with
    `ddbench run ... --protocol quick-plain`. A distilled set without soft labels needs no results under --hard.

    \b
    Example:
      ddbench robustness --dataset ucm --ipc 10
    """
    from ddbench.datasets.name import display_name
    from ddbench.leaderboard.ranking_robustness import ProtocolRoles, robustness_rows
    from ddbench.leaderboard.table import FULL
    from ddbench.store.results_file import read_results

    scan = read_results(options.runs, details=False)
    report_problems([*scan.problems, *scan.failed])
    of_set = filter_results(scan.results, dataset=display_name(dataset) if dataset else None)
    chosen = [entry for entry in of_set if ipc in (None, entry.spec.ipc) or entry.spec.method == FULL]
    titles = _titles(**roles)
    rows = robustness_rows(chosen, ProtocolRoles(**titles), weight)
    click.echo(json.dumps([asdict(row) for row in rows], indent=2) if form == "json" else _table(rows, form))
    if rows and form != "json":
        roles_used = ", ".join(f"{role}: {title}" for role, title in titles.items())
        click.echo(f"\n{roles_used}; HLR against `full` under {titles['hard']}")
    if scan.problems:
        raise SystemExit(1)


def _titles(own: str, hard: str | None, plain: str | None) -> dict[str, str]:
    """The protocols' titles; UserError unless hard and plain differ from own in labels, and in augmentation, alone."""
    from ddbench.protocols import load_protocol

    base = load_protocol(own)
    rows = {"own": base, "hard": _twin(base, "hard", hard), "plain": _twin(base, "plain", plain)}
    bare = {student: replace(row, augment=type(row.augment)()) for student, row in rows["own"].recipes.items()}
    labels = rows["own"].labels, rows["own"].teacher
    twins = {
        "own": (rows["own"].recipes, labels, "with augmentation"),
        "hard": (rows["own"].recipes, ("hard", None), "on hard labels"),
        "plain": (bare, labels, "without augmentation"),
    }
    for role, (recipes, label_settings, difference) in twins.items():
        row = rows[role]
        same = (row.recipes, row.init, row.labels, row.teacher) == (recipes, rows["own"].init, *label_settings)
        if not same or (role == "own" and recipes == bare):
            raise UserError(f"--{role} {row.title} is not {rows['own'].title} {difference}: name a protocol that is")
    return {role: row.title for role, row in rows.items()}


def _twin(own: Protocol, role: str, name: str | None) -> Protocol:
    """The protocol that is named, else the published twin; own itself where it is on hard labels already."""
    from ddbench.protocols import load_protocol, protocol_names

    if not name and role == "hard" and own.labels == "hard":
        return own
    twin = f"{own.name}-{role}@{own.version}"
    if not name and twin not in protocol_names():
        raise UserError(f"{own.title} has no published variant {twin}: name a protocol with --{role}")
    return load_protocol(name or twin)


def _place(line: RobustnessRow, name: str) -> str:
    value = getattr(line.where, name)
    return value[:8] if name == "fingerprint" else str(value)


def _table(scores: list[RobustnessRow], form: str) -> str:
    from tabulate import tabulate

    fields = [name for name in PLACE if name not in WHERE_DIFFERENT or len({_place(row, name) for row in scores}) > 1]
    heads = (*(PLACE[name] for name in fields), "method", *(f"{name}, %" for name in PERCENT), "LRS", "ARS")
    lines = [
        (*(_place(row, name) for name in fields), row.label, *(_shown(getattr(row, name), 100, 1) for name in PERCENT),
         _shown(row.lrs, 1, 3), _shown(row.ars, 1, 3))
        for row in scores
    ]  # fmt: skip
    style = {"text": "simple", "markdown": "pipe"}[form]
    return tabulate(lines, heads, tablefmt=style, disable_numparse=True) if lines else "no results yet"


def _shown(value: float | None, times: int, digits: int) -> str:
    return "-" if value is None else f"{times * value:.{digits}f}"
