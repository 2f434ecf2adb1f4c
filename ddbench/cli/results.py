"""`ddbench leaderboard`, `ddbench report`, `ddbench merge`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import (
    DATASET,
    KINDS,
    PROTOCOL,
    STUDENT,
    OutputFile,
    RunsFolder,
    UserPath,
    format_option,
    help_list,
    log,
    names_of,
)
from ddbench.errors import UserError
from ddbench.leaderboard import EXTRA_COLUMNS, FORMATS
from ddbench.runner.options import GlobalOptions
from ddbench.utils.text_table import terminal_width
from ddbench.utils.units import format_bytes


@click.command(epilog=help_list("--with prints beside each accuracy:", EXTRA_COLUMNS))
@click.option("--dataset", type=DATASET, metavar="NAME", help="Only this dataset.")
@click.option("--ipc", type=click.IntRange(min=1), help="Only this number of images per class.")
@click.option(
    "--protocol", type=PROTOCOL, metavar="NAME", help="Only this protocol: NAME (all versions) or NAME@VERSION."
)
@click.option(
    "--student", "students", type=STUDENT, metavar="NAME", multiple=True, help="Only this student; repeatable."
)
@click.option(
    "--with",
    "extras",
    type=click.Choice(tuple(EXTRA_COLUMNS)),
    multiple=True,
    help="Number beside each accuracy (see below, and docs/tables.md); repeatable.",
)
@format_option("text", FORMATS)
@click.option(
    "--reported",
    type=UserPath(exists=True, dir_okay=False),
    metavar="F.toml",
    help="Add marked rows with numbers from papers (format: docs/tables.md).",
)
@click.option("--output", type=OutputFile(), help="Output file.  [default: standard output]")
@click.pass_obj
def leaderboard(  # noqa: PLR0913
    options: GlobalOptions,
    dataset: str | None,
    ipc: int | None,
    protocol: str | None,
    students: tuple[str, ...],
    extras: tuple[str, ...],
    form: str,
    reported: Path | None,
    output: Path | None,
) -> None:
    """Compare methods in a table of all results below --runs.

    Text, Markdown and LaTeX show the mean accuracy in % ± the sample standard deviation over n distillations. The
    accuracies of a distillation's students are averaged first. CSV and JSON hold fractions in full precision, and the
    numbers of --with; JSON holds every result in full. Failed and diverged runs are named and are in no mean. Unusable
    files are named too; then the exit status is 1.

    `random` is the first row and `full` (all training images) the last. LaTeX prints in bold the best mean of a
    column, and the means that a paired t-test over shared distillation seeds (Holm's correction, 5 %) does not separate
    from it.

    \b
    Examples:
      ddbench leaderboard
      ddbench leaderboard --with gain --with share --with rank
      ddbench leaderboard --dataset ucm --with ratio --with slope --with cross --format csv
      ddbench leaderboard --dataset ucm --ipc 10 --format latex --output table.tex
      ddbench leaderboard --format json
    """
    from ddbench.datasets.name import display_name
    from ddbench.leaderboard.extra_values import cell_costs
    from ddbench.leaderboard.filters import Filters
    from ddbench.leaderboard.render import TableOptions, render
    from ddbench.leaderboard.reported import read_reported
    from ddbench.store.reader import report_problems
    from ddbench.store.results_file import read_results
    from ddbench.utils.files import write_bytes
    from ddbench.utils.memory import gc_paused

    if form in ("csv", "json") and reported:
        raise click.UsageError(f"--reported does not apply to --format {form}: use text, markdown or latex")
    with gc_paused():
        scan = read_results(
            options.runs, details=form == "json", costs=bool({"seconds", "bytes", "audit"} & set(extras))
        )
        report_problems([*scan.problems, *scan.failed])
        filters = Filters(display_name(dataset) if dataset else None, ipc, protocol, students)
        filters.check(scan.results, {kind: names_of(kind) for kind in KINDS})
        chosen = [entry for entry in scan.results if filters.matches(entry)]
        numbers = read_reported(reported) if reported else ()
        matching = tuple(filter(filters.matches_reported, numbers))
        if omitted := len(numbers) - len(matching):
            log.info("%d of %d reported numbers do not match the filters and are omitted", omitted, len(numbers))
        width = None if output else terminal_width()
        table = TableOptions(extras, cell_costs(chosen, scan.costs, scan.audits), scan.results, matching, width)
        text = render(chosen, form, table)
    if output:
        if not chosen:
            raise UserError(f"no results yet that match: {output} was not written")
        write_bytes(output, text.encode())
        log.info("written to %s", output)
    else:
        click.echo(text, nl=False)
    if scan.problems:
        raise SystemExit(1)


@click.command()
@click.option(
    "--output",
    type=OutputFile(),
    default="report.html",
    show_default=True,
    help="Output file.",
)
@click.pass_obj
def report(options: GlobalOptions, output: Path) -> None:
    """Write one HTML page with all results below --runs.

    The page needs no network and no other file. It holds a leaderboard to sort and filter, plots of accuracy over IPC
    and over cost, accuracies by class, confusion matrices, and the distilled images with their prototypes (read below
    --shared). Each number has its provenance: command, versions, commit, seeds. Unusable files are named on the page;
    then the exit status is 1.

    \b
    Example:
      ddbench report --output report.html
    """
    from ddbench.report.page import page
    from ddbench.store.reader import report_problems
    from ddbench.store.results_file import read_results
    from ddbench.utils.files import write_bytes

    scan = read_results(options.runs, costs=True)
    report_problems(scan.problems)
    write_bytes(output, page(scan, options.shared).encode())
    click.echo(f"{output}: {format_bytes(output.stat().st_size)}")
    if scan.problems:
        raise SystemExit(1)


@click.command()
@click.argument("others", metavar="RUNS...", nargs=-1, required=True, type=RunsFolder())
@click.pass_obj
def merge(options: GlobalOptions, others: tuple[Path, ...]) -> None:
    """Copy missing runs and results from RUNS into --runs.

    RUNS are runs folders or exported files. Nothing is overwritten. Two distilled sets of one run, or two results of
    one student, are a conflict: the one below --runs stays, the other is copied to --runs/conflicts/, which no table
    reads. Both are named, and the exit status is 1. Seconds, memory and versions may differ without a conflict.
    Results of one student in fp32 and in bf16 are both kept.

    \b
    Example:
      ddbench --runs all merge from_laptop from_cluster
    """
    from ddbench.store.merge import merge as merge_runs

    merged = merge_runs(options.runs, others)
    for line in merged.skipped:
        log.error("skipped %s", line)
    for ours, theirs in merged.conflicts:
        log.error("conflict: kept %s; the other one was copied to %s", ours, theirs)
    copied = f"{merged.runs} runs and {merged.results} further results copied, {merged.same} existed already"
    click.echo(f"{copied}, {len(merged.conflicts)} conflicts")
    if merged.conflicts or merged.skipped:
        raise SystemExit(1)
