"""`ddbench merge`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import Globals, log


@click.command()
@click.argument("others", metavar="RUNS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def merge(options: Globals, others: tuple[Path, ...]) -> None:
    """Copy into --runs what the other runs folders RUNS have and it has not.

    Nothing is overwritten. Where a folder has another set for the same run, or another result for the same student,
    ours stays, theirs is kept below --runs/conflicts/, where no table looks, both are named, and the exit status is 1:
    which is right is yours to say. Seconds, memory and versions are no conflict; a student of the same images in
    another precision (a GPU's bf16) stands beside.

    \b
    Example:
      ddbench --runs all merge from_laptop from_cluster
    """
    from ddbench.store.merge import merge as merge_runs

    merged = merge_runs(options.runs, others)
    for line in merged.skipped:
        log.error("skipped %s", line)
    for ours, theirs in merged.conflicts:
        log.error("conflict: %s stays; what the other folder has is %s", ours, theirs)
    said = f"{merged.runs} runs and {merged.results} further results copied, {merged.same} were there already"
    click.echo(f"{said}, {len(merged.conflicts)} conflicts")
    if merged.conflicts or merged.skipped:
        raise SystemExit(1)
