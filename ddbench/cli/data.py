"""`ddbench data`: list, prepare, verify and show datasets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import SIZE, SIZE_HELP, GlobalOptions, Group, text_table
from ddbench.datasets.info import DatasetError, MissingDataError
from ddbench.errors import UserError

if TYPE_CHECKING:
    from ddbench.datasets.lookup import Source
    from ddbench.datasets.verification import Report

LISTED_PAIRS = 20  # duplicates of one kind that `verify` lists


@click.group(cls=Group)
def data() -> None:
    """Datasets: list, prepare, verify, show.

    Raw images are looked for below --data-root (DDBENCH_DATA); packs go below --shared.

    \b
    Examples:
      ddbench data list
      ddbench --data-root ~/data data verify ucm
      ddbench data prepare nwpu                       # downloads it first, if it is not there
      ddbench data prepare aid --from ~/AID.zip       # or a folder; then --size 64, if you know what you run at
      ddbench data prepare folder:my_images --size 64

    A split follows the dataset's name: aid@20 trains on 20 percent of each class, nwpu@torchgeo on published
    lists, ucm@mine.csv on the images that a file with the columns file and split calls train. Results of different
    splits never share a row.
    """


@data.command("list")
@click.pass_obj
def list_sources(options: GlobalOptions) -> None:
    """List every dataset, and whether its images are there."""
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
    click.echo(text_table(rows, ("name", "title", "classes", "px", "images")))


@data.command()
@click.argument("dataset")
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.option(
    "--from", "origin", type=click.Path(exists=True, path_type=Path), metavar="ARCHIVE|FOLDER",
    help="What you have: a ZIP or TAR file, which is unpacked, or a folder, to which a link is made.",
)  # fmt: skip
@click.pass_obj
def prepare(options: GlobalOptions, dataset: str, size: int | None, origin: Path | None) -> None:
    """Get a dataset if it is not there, check it, resize and pack it, so that runs start at once.

    Missing data is downloaded where there is a stable public address. An interrupted download continues where it
    stopped and is checked against the published checksum. Without an address the command explains how to get the data.
    """
    from ddbench.datasets.lookup import find_dataset

    source = find_dataset(dataset)
    _provide_images(source, options, origin)
    size = size or source.pixels
    loaded = source.load(options.data_paths, size)
    click.echo(f"{source.name}, {size} px: {len(loaded.train.labels)} training, {len(loaded.test.labels)} test images")


@data.command()
@click.argument("dataset")
@click.pass_obj
def verify(options: GlobalOptions, dataset: str) -> None:
    """Decode every image, find duplicates; status 1 when an image cannot be read.

    Duplicates are files of the same bytes, and pictures that look alike (in another format, or shifted a little). A
    pair with one image on each side of the split is leakage.
    """
    from ddbench.datasets.lookup import find_dataset

    report = find_dataset(dataset).verify(options.data_paths)
    click.echo(f"{report.name}: {sum(report.counts.values())} images in {report.folder}")
    click.echo(text_table(_per_class(report), ("class", "images", "equal files", "alike", "leaking")))
    click.echo("sizes: " + ", ".join(f"{width}x{height}: {count}" for (width, height), count in report.sizes.items()))
    for line in report.unreadable:
        click.echo(f"unreadable: {line}")
    for name in report.several:
        click.echo(f"several pictures, the first is used: {name}")
    duplicates = report.duplicates
    for kind, pairs in (("equal files", duplicates.exact), ("alike", duplicates.near)) if duplicates else ():
        leaks, crossing = sum(pair.leak for pair in pairs), sum(pair.crossing for pair in pairs)
        click.echo(f"{kind}: {len(pairs)} pairs, {leaks} across the split, {crossing} across classes")
        for pair in pairs[:LISTED_PAIRS]:
            sides = "one trains, the other tests" if pair.leak else "on one side"
            click.echo(f"  {pair.one} and {pair.other}: {sides}, similarity {pair.similarity:.3f}")
        if len(pairs) > LISTED_PAIRS:
            click.echo(f"  and {len(pairs) - LISTED_PAIRS} more")
    if not report.ok:
        raise SystemExit(1)


@data.command()
@click.argument("dataset")
@click.pass_obj
def show(options: GlobalOptions, dataset: str) -> None:
    """Print a dataset's facts and split, and draw two pictures of it.

    Below --shared: a contact sheet of training images, and a page with the classes' balance, the mean images and the
    sizes of the files.
    """
    from ddbench.datasets.lookup import find_dataset

    source, heads = find_dataset(dataset), ("field", "value")
    try:
        split = source.describe(options.data_paths)
    except UserError as error:
        click.echo(text_table([*source.card(), ("images", str(error))], heads))
        return
    sides = f"{sum(map(len, split.train))} training, {sum(map(len, split.test))} test"
    rows = [("found", sides), ("rule", split.rule), ("fingerprint", split.fingerprint)]
    click.echo(text_table([*source.card(), *rows], heads))
    from ddbench.datasets.preview import write_pages  # torch and matplotlib: the table comes first

    for path in write_pages(source, options.data_paths):
        click.echo(str(path))


def _provide_images(source: Source, options: GlobalOptions, origin: Path | None) -> None:
    """Download a registered dataset's images, or take them from `origin`, unless they are there."""
    from ddbench.datasets.source import ClassFolders

    if not isinstance(source, ClassFolders) or not source.registered:
        if origin:
            raise UserError(f"--from is for datasets that are known; {source.name} is not got from anywhere")
        return
    from ddbench.datasets.download import fetch

    try:
        source.describe(options.data_paths)
    except MissingDataError:
        fetch(source, options.data_paths, origin)
    except DatasetError as error:
        if origin:
            raise UserError(f"{error}\nRemove what is there, then run the command again.") from None
        raise
    else:
        if origin:
            raise UserError(f"{source.name} is there already: leave out --from, or move it away")


def _per_class(report: Report) -> Iterable[tuple[str, ...]]:
    """Yield for each class: name, images, those in a pair of equal files, of alike images, of a leak."""
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
    return f"{sum(map(len, split.train))} train, {sum(map(len, split.test))} test"
