"""`ddbench export results`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import OutputFile
from ddbench.runner.options import GlobalOptions


@click.group()
def export() -> None:
    """Export the results below --runs to one file."""


@export.command()
@click.argument("file", metavar="FILE.jsonl[.gz]", type=OutputFile())
@click.pass_obj
def results(options: GlobalOptions, file: Path) -> None:
    """Write all results below --runs to FILE.

    FILE holds the results, their specs and costs, and the recorded failures, but no images. leaderboard, report and
    robustness read it as --runs FILE. `ddbench merge FILE` copies its runs into a folder. docs/results-format.md
    describes the format. Unusable files below --runs are named and left out; then the exit status is 1.

    \b
    Examples:
      ddbench export results ours.jsonl.gz
      ddbench --runs ours.jsonl.gz leaderboard
    """
    from ddbench.store.reader import report_problems
    from ddbench.store.results_file import export_results

    scan = export_results(options.runs, file)
    report_problems(scan.problems)
    runs = len({stored.folder for stored in scan.results})
    size = file.stat().st_size / 1e6
    click.echo(f"{file}: {len(scan.results)} results of {runs} runs, {len(scan.failed)} failures, {size:.2f} MB")
    if scan.problems:
        raise SystemExit(1)
