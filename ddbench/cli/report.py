"""`ddbench report`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import Globals, report_problems


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default="report.html", show_default=True)
@click.pass_obj
def report(options: Globals, output: Path) -> None:
    """Write one HTML page with all results below --runs: it needs no network and no other file.

    A leaderboard that sorts and filters, accuracy over images per class and over cost, classes and confusions, the
    distilled images (and, from --shared, the prototypes they were made from), and of every number where it is from: the
    command that makes it again, versions, commit, seeds. A file that cannot be used is named on the page too, and the
    exit status is 1.

    \b
    Example:
      ddbench report --output report.html
    """
    from ddbench.report.page import page
    from ddbench.store.reader import read_all
    from ddbench.utils.files import write_bytes

    found = read_all(options.runs)
    report_problems(found.problems)
    write_bytes(output, page(found.entries, [*found.problems, *found.failed], options.shared).encode())
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    if found.problems:
        raise SystemExit(1)
