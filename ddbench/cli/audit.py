"""`ddbench audit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import DATASET, SIZE, SIZE_HELP, UserPath, format_table, log, text_table
from ddbench.cli.measures import PLOT, JobOptions, do_jobs, job_options
from ddbench.runner import EMBEDDINGS
from ddbench.runner.options import GlobalOptions
from ddbench.store.paths import CANARIES

if TYPE_CHECKING:
    from ddbench.report.leakage import LeakageGroup
    from ddbench.sweep.workers import Job


@click.command()
@click.argument("folders", nargs=-1, type=UserPath(exists=True, file_okay=False))
@click.option("--dataset", type=DATASET, metavar="NAME|folder:PATH", help="Dataset whose images are looked for.")
@click.option(
    "--canaries", type=UserPath(exists=True, dir_okay=False), metavar="PLAN", help="Attack students instead; see below."
)
@click.option(
    "--features",
    multiple=True,
    metavar="pixels|STUDENT/PROTOCOL",
    default=EMBEDDINGS,
    show_default=True,
    help="Embedding in which images are compared; repeatable: pixels, a student trained on the real training images by "
    "PROTOCOL, or STUDENT/imagenet.",
)
@click.option("--ssim", is_flag=True, help="Also measure NN-SSIM, as `ddbench quality` does. It takes minutes.")
@click.option("--size", type=SIZE, metavar="PX", help=f"Only for a folder of images. {SIZE_HELP}")
@PLOT
@job_options
@click.pass_obj
def audit(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    dataset: str | None,
    canaries: Path | None,
    features: tuple[str, ...],
    ssim: bool,
    size: int | None,
    plot: Path | None,
    job_options: JobOptions,
) -> None:
    """Measure whether distilled images give their training images away.

    FOLDERS are runs (with a spec.json) or folders of images (one sub-folder per class, as for `ddbench evaluate`).

    Two attacks compare real images with the set. The first asks which training images the method used; only a run
    whose manifest names them has it. The second asks which images were in the training split. Controls of known answer
    are part of every audit: where one fails, its attack has no finding. An attack that fails proves nothing:
    docs/audit.md says what is measured and what is not.

    Each embedding gives a file and a sheet of the closest pairs in the run's audit/ folder, made once. --plot draws the
    accuracy of the runs' students over the AUC of the attacks.

    --canaries PLAN takes no FOLDERS. It attacks students, with many distillations (LiRA; Zhao & Zhang, ICLR 2025): half
    of the audited training images get another label; each method distils random halves of the audited images, and a
    student of each set is asked for its confidence in every audited image. All files are below --runs/canaries. A
    repeated command does only what is missing. Only --canaries takes --jobs, --scheduler, --compiled, --retry and
    --dry-run.

    \b
    A plan (only dataset, ipc and methods are needed):
      dataset = "ucm"
      ipc = 10
      audited = 500                  # training images, half of them relabelled; the rate at 0.1 % FPR needs 1000
      distillations = 16             # of each method, an even number; a student each
      seed = 0                       # of the draw of images, labels and halves
      size = 64
      students = ["convnet"]
      protocol = "quick"
      methods = ["full", "random", { method = "dm", preset = "tiny" }]    # full: a control that must be found

    \b
    Examples:
      ddbench audit runs/ucm64/dm/ipc10/seed0-1a2b3c4d --dataset ucm
      ddbench audit runs/ucm64/*/ipc10/* --dataset ucm --features pixels --features resnet18/imagenet
      ddbench audit runs/ucm64/*/ipc10/* --dataset ucm --features pixels --plot leakage.svg
      ddbench audit --canaries plan.toml --jobs 2 --plot canaries.svg
    """
    if canaries:
        if folders or dataset or ssim or size:
            raise click.UsageError("--canaries takes no FOLDERS, --dataset, --ssim and --size: its plan has them")
        _audit_students(options, canaries, plot, job_options)
        return
    if not folders or not dataset:
        raise click.UsageError("name runs or folders of images, with --dataset; or --canaries PLAN")
    if job_options != JobOptions(None, None, False, False, False, job_options.form):
        raise click.UsageError("--jobs, --scheduler, --compiled, --retry and --dry-run need --canaries PLAN")
    _audit_sets(options, folders, dataset, features, ssim, size, plot, job_options.form)


def _audit_sets(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    dataset: str,
    features: tuple[str, ...],
    ssim: bool,
    size: int | None,
    plot: Path | None,
    form: str,
) -> None:
    """Audit distilled images, print the numbers and plot them over the accuracies of the runs' students."""
    from ddbench.datasets.lookup import find_dataset
    from ddbench.report.audits import HEADS, audit_findings, audit_lines
    from ddbench.runner import quality
    from ddbench.runner.audit import audit as audit_run
    from ddbench.runner.embedding import embedding_title
    from ddbench.runner.measured_run import LARGE, measure_runs
    from ddbench.store.audits import read_audit

    source, titles = find_dataset(dataset), dict.fromkeys(map(embedding_title, features))
    measures = {title: partial(audit_run, source=title) for title in titles}
    if ssim:
        measures["ssim"] = partial(quality.measure, metric="ssim", source=str(LARGE))
    measurements = measure_runs(options, folders, source, size, measures)
    paths = [path for path in measurements.paths if path.parent.name == "audit"]
    if form == "json":
        click.echo(json.dumps([audit_findings(read_audit(path)) | {"path": str(path)} for path in paths], indent=2))
    else:
        rows: list[tuple[str, ...]] = []
        for path in paths:
            run, record = path.parents[1], read_audit(path)
            lines = audit_lines(run, record)
            if form == "text":  # a table for each, below its run
                click.echo(f"{run} by {record.by}\n\n{text_table(lines, HEADS)}\n\npairs: {path.with_suffix('.png')}\n")
            rows += [(str(run), record.by, *line) for line in lines]
        if form != "text":
            click.echo(format_table(rows, ("run", "by", *HEADS), form))
    if plot:
        from ddbench.report.leakage import audited_cells, run_groups

        runs = dict.fromkeys(path.parents[1] for path in paths)
        _write_plot(plot, run_groups(*audited_cells(list(runs))))
    if measurements.report_missing("embedding"):
        raise SystemExit(1)


def _write_plot(path: Path, groups: Sequence[LeakageGroup]) -> None:
    from ddbench.report.leakage import plot_leakage
    from ddbench.report.measure_plots import encode
    from ddbench.utils.files import write_bytes

    write_bytes(path, encode(plot_leakage(groups), path.suffix.lower()))
    log.info("written to %s", path)


def _audit_students(options: GlobalOptions, plan: Path, plot: Path | None, job_options: JobOptions) -> None:
    """Do the jobs of a canary plan, attack the students of each method whose jobs are done, and print the numbers."""
    from ddbench.report.canaries import HEADS, canary_findings, canary_lines, canary_notes
    from ddbench.report.leakage import canary_groups
    from ddbench.runner.canaries import attack_students
    from ddbench.store.canaries import read_canary_audit
    from ddbench.sweep.canaries import canary_work, read_canaries

    options = options.absolute()
    work = canary_work(*read_canaries(plan), options.data_paths, options.runs)
    inner = replace(options, runs=options.runs / CANARIES)
    students = [job for subject in work.subjects for job in subject.jobs]
    if job_options.dry_run:
        every: list[Job] = [*work.distillations, *students]
        do_jobs(inner, every, job_options)
    failed = do_jobs(inner, work.distillations, job_options)
    failed |= do_jobs(inner, [job for job in students if job.ready], job_options)
    audits = []
    for subject in work.subjects:
        if not subject.done:
            log.error("%s is not attacked: a student of it is missing", subject.label)
            continue
        try:
            audits.append(read_canary_audit(attack_students(subject)))
        except (OSError, ValueError) as error:
            log.error("%s is not attacked: %s", subject.label, error)
            failed = True
    if job_options.form == "json":
        click.echo(json.dumps([canary_findings(one, audits) for one in audits], indent=2))
    else:
        click.echo(format_table(canary_lines(audits), HEADS, job_options.form))
        for note in canary_notes(audits) if job_options.form == "text" else ():
            click.echo(f"\n{note}")
    if plot:
        _write_plot(plot, canary_groups(audits))
    if failed:
        raise SystemExit(1)
