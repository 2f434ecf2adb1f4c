"""`ddbench data`: list, prepare, verify and show datasets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import DATASET, SIZE, SIZE_HELP, Group, UserPath, format_option, format_table, log, text_table
from ddbench.datasets.info import (
    RECORD,
    DatasetError,
    DatasetInfo,
    MissingDataError,
    describe_ignored,
    describe_left_out,
)
from ddbench.errors import UserError
from ddbench.runner.options import GlobalOptions
from ddbench.utils.files import read_json

if TYPE_CHECKING:
    from ddbench.datasets.info import Split
    from ddbench.datasets.lookup import Source
    from ddbench.datasets.verification import Report

ALL = "all"
FAILED = "failed"
STATES = ("name", "state", "images")
LISTED_SIZES = 5  # sizes of images that `verify` lists
LISTED_PAIRS = 20  # duplicates of one kind that `verify` lists


@click.group(cls=Group)
def data() -> None:
    """List, prepare, verify and show datasets.

    Raw images are read below --data-root (DDBENCH_DATA). Packed datasets are written below --shared.

    \b
    Examples:
      ddbench data list
      ddbench --data-root ~/data data verify ucm
      ddbench data prepare nwpu                       # downloads missing images
      ddbench data prepare all --missing              # goes on after a failure, ends with a table
      ddbench data prepare aid --from ~/AID.zip       # unpacks an archive, or links a folder
      ddbench data prepare folder:my_images --size 64

    A suffix of the name selects the split. aid@20 trains on 20 % of each class. nwpu@torchgeo uses published lists.
    ucm@mine.csv reads your list (columns: file, split). Results of different splits never share a row.
    """


@data.command("list")
@format_option()
@click.pass_obj
def list_sources(options: GlobalOptions, form: str) -> None:
    """List all datasets, with the number of images found."""
    from ddbench.datasets.lookup import find_dataset
    from ddbench.registry import names

    rows = []
    for name in names("datasets"):
        try:
            source = find_dataset(name)
        except UserError as error:  # a broken plugin gets a row too
            rows.append((name, str(error), "", "", "broken"))
            continue
        classes, pixels = str(len(source.classes)), str(source.pixels)
        rows.append((name, source.title, classes, pixels, _presence(source, options)))
    click.echo(format_table(rows, ("name", "title", "classes", "px", "images"), form))


@data.command()
@click.argument("dataset", type=DATASET, metavar="DATASET|all")
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.option(
    "--from", "origin", type=UserPath(exists=True), metavar="ARCHIVE|FOLDER",
    help="Images that you have: a ZIP or TAR archive to unpack, or a folder to link.",
)  # fmt: skip
@click.option("--missing", is_flag=True, help="With `all`: leave alone the datasets whose images are there.")
@format_option()
@click.pass_obj
def prepare(
    options: GlobalOptions, dataset: str, size: int | None, origin: Path | None, missing: bool, form: str
) -> None:
    """Download, check, resize and pack a dataset, or all of them.

    Missing images are downloaded if they have a stable public address, or a copy on the Hugging Face hub. An
    interrupted download resumes; its checksum must equal the published one. Of a copy, the classes and the number of
    images of each must be those of the dataset, and its revision is recorded. Without either, the error explains how to
    get the images.

    `all` goes on after a failure and ends with a table. The exit status is 1 if a dataset failed.
    """
    from ddbench.datasets.lookup import find_dataset

    if dataset == ALL:
        if origin:
            raise UserError("--from does not apply to all datasets: name one")
        _prepare_all(options, size, missing, form)
        return
    if missing:
        raise UserError(f"--missing applies to all datasets, not to {dataset}: leave it out")
    source = find_dataset(dataset)
    line = _prepare(source, options, size, origin)
    click.echo(line if form == "text" else format_table([(source.name, "prepared", line)], STATES, form))


def _prepare(source: Source, options: GlobalOptions, size: int | None, origin: Path | None = None) -> str:
    """Provide a dataset's images, pack them, and return a line about them."""
    _provide_images(source, options, origin)
    loaded = source.load(options.data_paths, size or source.pixels)
    sides = f"{len(loaded.train.labels)} training, {len(loaded.test.labels)} test images"
    return f"{source.name}, {size or source.pixels} px: {sides}"


def _prepare_all(options: GlobalOptions, size: int | None, missing: bool, form: str) -> None:
    """Prepare every dataset and print a table of what came, what is there, and what is to be got by hand."""
    from ddbench.datasets.lookup import find_dataset
    from ddbench.registry import names

    if options.data is None:
        raise UserError("the datasets need a folder: name it with --data-root DIR or DDBENCH_DATA")
    rows = []
    for name in names("datasets"):
        try:
            rows.append((name, *_prepare_one(find_dataset(name), options, size, missing)))
        except (UserError, OSError) as error:
            log.error("%s", error)
            rows.append((name, FAILED, str(error).splitlines()[0]))
    click.echo(format_table(rows, STATES, form))
    if any(state == FAILED for _, state, _ in rows):
        raise SystemExit(1)


def _prepare_one(source: Source, options: GlobalOptions, size: int | None, missing: bool) -> tuple[str, str]:
    """Prepare a dataset of `all`; return its state and a line about its images."""
    try:
        split = source.describe(options.data_paths)
    except MissingDataError as error:
        if isinstance(source, DatasetInfo) and not source.address and source.copy is None:
            return "by hand", next(line for line in str(error).splitlines() if line.startswith("Get it"))
        return "prepared", _prepare(source, options, size)
    return "there", _count(split) if missing else _prepare(source, options, size)


@data.command()
@click.argument("dataset", type=DATASET)
@format_option("text", ("text", "json"))
@click.pass_obj
def verify(options: GlobalOptions, dataset: str, form: str) -> None:
    """Decode every image and find duplicates.

    Duplicates are files of equal bytes and images that look alike (stored in another format, or slightly shifted). A
    pair of a training and a test image is leakage. The exit status is 1 if an image is not read.
    """
    from ddbench.datasets.lookup import find_dataset

    report = find_dataset(dataset).verify(options.data_paths)
    if form == "json":
        sizes = [{"width": w, "height": h, "images": count} for (w, h), count in report.sizes.items()]
        click.echo(json.dumps({**asdict(report), "sizes": sizes, "ok": report.ok}, indent=2, ensure_ascii=False))
    else:
        _print_report(report)
    if not report.ok:
        raise SystemExit(1)


def _print_report(report: Report) -> None:
    click.echo(f"{report.name}: {sum(report.counts.values())} images in {report.folder}")
    click.echo(text_table(_per_class(report), ("class", "images", "equal files", "alike", "leaking")))
    click.echo(f"sizes: {_describe_sizes(report.sizes)}")
    for line in report.unreadable:
        click.echo(f"unreadable: {line}")
    for reason, names in report.unsupported.items():
        click.echo(f"not read: {len(names)} images, such as {names[0]}: {reason}")
    for what, names in report.unread.items():
        click.echo(f"{what}: {len(names)} images: {', '.join(names)}")
    if report.ignored:
        click.echo(f"files that are not read: {describe_ignored(report.ignored)}")
    if report.left_out:
        click.echo(describe_left_out(report.left_out))
    duplicates = report.duplicates
    for kind, pairs in (("equal files", duplicates.exact), ("alike", duplicates.near)) if duplicates else ():
        leaks, crossing = sum(pair.leak for pair in pairs), sum(pair.crossing for pair in pairs)
        click.echo(f"{kind}: {len(pairs)} pairs, {leaks} across the split, {crossing} across classes")
        for pair in pairs[:LISTED_PAIRS]:
            sides = "one training, one test image" if pair.leak else "same side of the split"
            click.echo(f"  {pair.one} and {pair.other}: {sides}, similarity {pair.similarity:.3f}")
        if len(pairs) > LISTED_PAIRS:
            click.echo(f"  and {len(pairs) - LISTED_PAIRS} more")


def _describe_sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    """Name the most frequent sizes, width x height in pixels, with their images; of the others the range."""
    ordered = list(sizes.items())
    parts = [f"{width}x{height}: {count}" for (width, height), count in ordered[:LISTED_SIZES]]
    if others := ordered[LISTED_SIZES:]:
        widths, heights = zip(*(size for size, _ in others), strict=True)
        count = sum(count for _, count in others)
        ranges = f"{min(widths)} to {max(widths)} px wide, {min(heights)} to {max(heights)} px high"
        parts.append(f"{len(others)} other sizes, {ranges}: {count}")
    return ", ".join(parts)


@data.command()
@click.argument("dataset", type=DATASET)
@format_option()
@click.pass_obj
def show(options: GlobalOptions, dataset: str, form: str) -> None:
    """Show a dataset's facts, its split, and two overview images.

    The overview images are written below --shared: a contact sheet of training images, and a page with the class
    balance, the mean images and the image sizes.
    """
    from ddbench.datasets.lookup import find_dataset

    source, heads = find_dataset(dataset), ("field", "value")
    try:
        split = source.describe(options.data_paths)
    except UserError as error:
        click.echo(format_table([*source.card(), ("images found", str(error))], heads, form))
        return
    rows = [("downloaded", text)] if (text := _describe_record(source, options)) else []
    rows += [("images found", _count(split)), ("rule", split.rule), ("fingerprint", split.fingerprint)]
    rows = [*source.card(), *rows]
    if form == "text":
        click.echo(format_table(rows, heads, form))
    from ddbench.datasets.preview import write_pages  # torch and matplotlib: a table of text comes first

    paths = [str(path) for path in write_pages(source, options.data_paths)]
    if form != "text":
        paths = [format_table([*rows, *(("overview image", path) for path in paths)], heads, form)]
    click.echo("\n".join(paths))


def _provide_images(source: Source, options: GlobalOptions, origin: Path | None) -> None:
    """Put a registered dataset's images below the data root: download them, or take them from `origin`."""
    from ddbench.datasets.source import ClassFolders

    if not isinstance(source, ClassFolders) or not source.registered:
        if origin:
            raise UserError(f"--from does not apply to {source.name}, only to registered class folders: leave it out")
        return
    from ddbench.datasets.download import fetch

    try:
        source.describe(options.data_paths)
    except MissingDataError:
        fetch(source, options.data_paths, origin)
    except DatasetError as error:
        if origin:
            raise UserError(f"{error}\nRemove these images, then repeat the command with --from.") from None
        raise
    else:
        if origin:
            raise UserError(f"the images of {source.name} exist already: leave out --from, or move them away first")


def _per_class(report: Report) -> Iterable[tuple[str, ...]]:
    """Count for each class: images, and images in pairs of equal files, of similar images, across the split."""
    exact, near = (report.duplicates.exact, report.duplicates.near) if report.duplicates else ((), ())
    leaks = [pair for pair in (*exact, *near) if pair.leak]
    sets = [{name for pair in pairs for name in (pair.one, pair.other)} for pairs in (exact, near, leaks)]
    for label, count in report.counts.items():
        yield label, str(count), *(str(sum(name.startswith(f"{label}/") for name in names)) for names in sets)


def _presence(source: Source, options: GlobalOptions) -> str:
    try:
        split = source.describe(options.data_paths)
    except MissingDataError:
        return "missing"
    except UserError:
        return f"incomplete: see ddbench data show {source.name}"
    return _count(split)


def _describe_record(source: Source, options: GlobalOptions) -> str:
    """Return the address, or copy and revision, that a dataset's images were downloaded from; empty if unknown."""
    path = Path(options.data or "", source.slug.partition("@")[0], RECORD)
    try:
        record = read_json(path)
        return "; ".join(f"{key}: {value}" for key, value in record.items() if value)
    except (OSError, ValueError, AttributeError):
        return ""


def _count(split: Split) -> str:
    return f"{sum(map(len, split.train))} training, {sum(map(len, split.test))} test"
