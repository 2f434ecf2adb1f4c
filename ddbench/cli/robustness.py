"""`ddbench robustness`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import DATASET, PROTOCOL, filter_results, format_option, format_table
from ddbench.errors import UserError
from ddbench.runner.options import GlobalOptions

if TYPE_CHECKING:
    from ddbench.leaderboard.ranking_robustness import ProtocolRoles, RobustnessRow
    from evaluators.recipes import Protocol

ALWAYS = ("dataset", "size", "ipc", "student", "init")
PERCENT = ("own", "hard", "plain", "ior", "hlr")


@click.command()
@click.option("--dataset", type=DATASET, metavar="NAME", help="Only this dataset.")
@click.option("--ipc", type=click.IntRange(min=1), help="Only this number of images per class.")
@click.option(
    "--own", type=PROTOCOL, metavar="NAME@VERSION", default="quick@1", show_default=True, help="Protocol to examine."
)
@click.option(
    "--hard", type=PROTOCOL, metavar="NAME@VERSION", help="Variant with hard labels.  [default: NAME-hard of --own]"
)
@click.option(
    "--plain",
    type=PROTOCOL,
    metavar="NAME@VERSION",
    help="Variant without augmentation.  [default: NAME-plain of --own]",
)
@click.option(
    "--weight", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The paper's weights w and g."
)
@format_option()
@click.pass_obj
def robustness(  # noqa: PLR0913
    options: GlobalOptions,
    dataset: str | None,
    ipc: int | None,
    own: str,
    hard: str | None,
    plain: str | None,
    weight: float,
    form: str,
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
    from ddbench.leaderboard.ranking_robustness import robustness_rows
    from ddbench.leaderboard.table import FULL
    from ddbench.store.reader import report_problems
    from ddbench.store.results_file import read_results

    scan = read_results(options.runs, details=False)
    report_problems([*scan.problems, *scan.failed])
    of_set = filter_results(scan.results, dataset=display_name(dataset) if dataset else None)
    chosen = [entry for entry in of_set if ipc in (None, entry.spec.ipc) or entry.spec.method == FULL]
    roles = _protocol_roles(own, hard, plain)
    rows = robustness_rows(chosen, roles, weight)
    click.echo(json.dumps([asdict(row) for row in rows], indent=2) if form == "json" else _table(rows, form))
    if rows and form in ("text", "markdown"):
        titles = ", ".join(f"{role}: {title}" for role, title in vars(roles).items())
        click.echo(f"\n{titles}; HLR against `full` under {roles.hard}")
    if scan.problems:
        raise SystemExit(1)


def _protocol_roles(own_name: str, hard_name: str | None, plain_name: str | None) -> ProtocolRoles:
    """Return the titles of the protocols.

    Raises UserError unless hard differs from own in labels alone, and plain in augmentation alone.
    """
    from ddbench.leaderboard.ranking_robustness import ProtocolRoles
    from ddbench.protocols import load_protocol

    own = load_protocol(own_name)
    hard, plain = _twin(own, "hard", hard_name), _twin(own, "plain", plain_name)
    unaugmented = {student: replace(row, augment=type(row.augment)()) for student, row in own.recipes.items()}
    if own.recipes == unaugmented:
        raise UserError(f"--own {own.title} has no augmentation: name a protocol that has")
    if (hard.recipes, hard.init, hard.labels, hard.teacher) != (own.recipes, own.init, "hard", None):
        raise UserError(f"--hard {hard.title} is not {own.title} on hard labels: name a protocol that is")
    if (plain.recipes, plain.init, plain.labels, plain.teacher) != (unaugmented, own.init, own.labels, own.teacher):
        raise UserError(f"--plain {plain.title} is not {own.title} without augmentation: name a protocol that is")
    return ProtocolRoles(own.title, hard.title, plain.title)


def _twin(own: Protocol, role: str, name: str | None) -> Protocol:
    """Return the named protocol, else the published twin of `own`; `own` itself if it has hard labels already."""
    from ddbench.protocols import load_protocol, protocol_names

    if not name and role == "hard" and own.labels == "hard":
        return own
    twin = f"{own.name}-{role}@{own.version}"
    if not name and twin not in protocol_names():
        raise UserError(f"{own.title} has no published variant {twin}: name a protocol with --{role}")
    return load_protocol(name or twin)


def _table(rows: list[RobustnessRow], form: str) -> str:
    from ddbench.leaderboard.places import place_fields, place_text

    fields = place_fields([row.where for row in rows], ALWAYS)
    heads = (*fields.values(), "method", *(f"{name}, %" for name in PERCENT), "LRS", "ARS")
    lines = [
        (*(place_text(row.where, name) for name in fields), row.label,
         *(_number(getattr(row, name), 100, 1) for name in PERCENT), _number(row.lrs, 1, 3), _number(row.ars, 1, 3))
        for row in rows
    ]  # fmt: skip
    return format_table(lines, heads, form) if lines or form == "csv" else "no results yet"


def _number(value: float | None, factor: int, digits: int) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"
