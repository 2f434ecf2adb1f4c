"""`ddbench leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.commands.common import Globals, comparable, log, report_problems
from ddbench.errors import unknown

if TYPE_CHECKING:
    from ddbench.reported import Reported
    from ddbench.runs import Entry

EXTRAS = ("interval", "components", "gain", "share", "seconds", "bytes", "rank")  # derived.EXTRAS and rank, likewise
FORMATS = ("text", "markdown", "latex", "csv", "json")  # tables.FORMATS, repeated so that --help stays instant


@click.command()
@click.option("--dataset", metavar="NAME", help="Only this dataset.")
@click.option("--ipc", type=click.IntRange(min=1), help="Only this number of images per class.")
@click.option("--protocol", metavar="NAME", help="Only this protocol: NAME (every version) or NAME@VERSION.")
@click.option(
    "--with",
    "extras",
    type=click.Choice(EXTRAS),
    multiple=True,
    help="Show beside each accuracy: its 95 % interval; deviations among distillations / among students; the "
    "gain over random, in points; the share of full; seconds of a distillation; bytes of a set. Or mean ranks.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option(
    "--reported",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="F.toml",
    help="Numbers from papers to stand beside, marked: see docs/tables.md.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
@click.pass_obj
def leaderboard(options: Globals, dataset: str | None, ipc: int | None, protocol: str | None, **look: Any) -> None:
    """Compare all results below --runs.

    Text, Markdown and LaTeX show per cent, mean ± sample standard deviation over n distillations (within one, the mean
    over its students comes first). CSV and JSON hold fractions; JSON holds every result in full. A file that cannot be
    used is named and left out, and the exit status is 1. What failed or diverged is named: it is in no mean.

    The anchors stand first (random) and last (full: all training images, in every column). LaTeX sets the best mean of
    a column bold, and what a paired t-test over shared distillation seeds (Holm's correction, 5 %) does not tell from
    it. A mean rank is given to rows without a gap alone.

    \b
    Examples:
      ddbench leaderboard
      ddbench leaderboard --with gain --with share --with rank
      ddbench leaderboard --dataset ucm --ipc 10 --format latex --output table.tex
      ddbench leaderboard --format json
    """
    from ddbench.derived import Costs, costs
    from ddbench.files import write_bytes
    from ddbench.registry import short
    from ddbench.reported import read_reported
    from ddbench.scanning import read_all
    from ddbench.spent import spent
    from ddbench.tables import Look, render

    form, output, extras = look["form"], look["output"], look["extras"]
    if form in ("csv", "json") and (extras or look["reported"]):
        raise click.UsageError(
            f"--with and --reported are for text, markdown and latex; {form} holds all that is computed"
        )
    found = read_all(options.runs, whole=form == "json")
    report_problems([*found.problems, *found.failed])
    dataset = short(dataset) if dataset else None
    _check_words(found.entries, dataset, protocol)
    chosen = [entry for entry in comparable(found.entries, dataset=dataset) if _asked(entry, ipc, protocol)]
    took = costs(chosen, lambda entry: spent(entry.folder).seconds) if {"seconds", "bytes"} & set(extras) else Costs()
    papers = read_reported(look["reported"]) if look["reported"] else ()
    told = [one for one in papers if _wanted(one, dataset, ipc, protocol)]
    if len(told) < len(papers):
        log.info(
            "%d of %d reported numbers are not of what was asked for, and left out",
            len(papers) - len(told),
            len(papers),
        )
    text = render(chosen, form, Look(extras, took, tuple(told)))
    if output:
        write_bytes(output, text.encode())
        log.info("written to %s", output)
    else:
        click.echo(text, nl=False)
    if found.problems:
        raise SystemExit(1)


def _check_words(entries: Sequence[Entry], dataset: str | None, protocol: str | None) -> None:
    """A word is right when it is registered, or when there are results for it (of a plugin that is gone, say)."""
    from ddbench.registry import names

    datasets = {*names("datasets"), *(entry.spec.dataset for entry in entries)}
    if dataset is not None and dataset not in datasets:
        raise unknown("dataset", dataset, datasets)
    protocols = {*names("protocols"), *(entry.result.title for entry in entries)}
    if protocol is not None and protocol not in protocols | {title.partition("@")[0] for title in protocols}:
        raise unknown("protocol", protocol, protocols)


def _wanted(one: Reported, dataset: str | None, ipc: int | None, protocol: str | None) -> bool:
    """Whether a paper's number is of what was asked for."""
    judged = one.protocol is None or protocol in (None, one.protocol, one.protocol.partition("@")[0])
    return dataset in (None, one.dataset) and ipc in (None, one.ipc) and judged


def _asked(entry: Entry, ipc: int | None, protocol: str | None) -> bool:
    """All training images stand beside every number of them."""
    return ipc in (None, entry.spec.ipc or ipc) and protocol in (None, entry.result.protocol, entry.result.title)
