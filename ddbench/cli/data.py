"""`ddbench data`: what datasets there are, whether they are whole, and packing them."""

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
    from ddbench.datasets.verification import Duplicates, Pair, Report

SPELLED = 20  # pairs that `verify` spells out


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

    A dataset's split is said after its name: aid@20 trains on 20 percent of each class, nwpu@torchgeo on published
    lists, ucm@mine.csv on the images that a file with the columns file and split calls train. Results of different
    splits never share a row.
    """


@data.command("list")
@click.pass_obj
def list_sources(options: GlobalOptions) -> None:
    """Every dataset, and whether its images are there."""
    from ddbench.registry import names

    click.echo(
        text_table([_line(name, options) for name in names("datasets")], ("name", "title", "classes", "px", "images"))
    )


@data.command()
@click.argument("dataset")
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.option(
    "--from", "given", type=click.Path(exists=True, path_type=Path), metavar="ARCHIVE|FOLDER",
    help="What you have: a ZIP or TAR file, which is unpacked, or a folder, to which a link is made.",
)  # fmt: skip
@click.pass_obj
def prepare(options: GlobalOptions, dataset: str, size: int | None, given: Path | None) -> None:
    """Get a dataset if it is not there, check it, resize and pack it, so that runs start at once.

    What is missing is downloaded where there is a stable public address (an interrupted download goes on where it
    stopped, and is checked against the published checksum), and otherwise said how to get.
    """
    from ddbench.datasets.lookup import find_dataset

    source = find_dataset(dataset)
    _get(source, options, given)
    size = size or source.pixels
    loaded = source.load(options.data_paths, size)
    click.echo(f"{source.name}, {size} px: {len(loaded.train.labels)} training, {len(loaded.test.labels)} test images")


@data.command()
@click.argument("dataset")
@click.pass_obj
def verify(options: GlobalOptions, dataset: str) -> None:
    """Decode every image, find those that are there twice; status 1 when one cannot be read.

    Duplicates are files of the same bytes, and pictures that look alike (saved otherwise, or shifted a little). A pair
    of which one trains and the other tests is leakage.
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
    for line in _twice(report.duplicates):
        click.echo(line)
    if not report.ok:
        raise SystemExit(1)


@data.command()
@click.argument("dataset")
@click.pass_obj
def show(options: GlobalOptions, dataset: str) -> None:
    """The facts, the split of the images that are there, and two pictures of them.

    Below --shared: a contact sheet of training images, and a page with the classes' balance, the mean images and the
    sizes of the files.
    """
    from ddbench.datasets.lookup import find_dataset

    source = find_dataset(dataset)
    click.echo(text_table([*source.card(), *_split(source, options)], ("field", "value")))
    try:
        source.describe(options.data_paths)
    except UserError:
        return
    from ddbench.datasets.preview import write_pages

    for path in write_pages(source, options.data_paths):
        click.echo(str(path))


def _get(source: Source, options: GlobalOptions, given: Path | None) -> None:
    """Have the images below the data root; of what is no dataset of class folders nothing can be got."""
    from ddbench.datasets.source import ClassFolders

    if not isinstance(source, ClassFolders) or not source.registered:
        if given:
            raise UserError(f"--from is for datasets that are known; {source.name} is not got from anywhere")
        return
    from ddbench.datasets.download import fetch

    try:
        source.describe(options.data_paths)
    except MissingDataError:
        fetch(source, options.data_paths, given)
    except DatasetError as error:
        if given:
            raise UserError(f"{error}\nRemove what is there, then say --from again.") from None
        raise
    else:
        if given:
            raise UserError(f"{source.name} is there already: leave out --from, or move it away")


def _per_class(report: Report) -> Iterable[tuple[str, ...]]:
    """Of each class: images, those in a pair of equal files, in one that looks alike, in one across the split."""
    twice = report.duplicates
    kinds = (twice.exact, twice.near, [p for p in (*twice.exact, *twice.near) if p.leak]) if twice else ((), (), ())
    sets = [{name for pair in pairs for name in (pair.one, pair.other)} for pairs in kinds]
    for label, count in report.counts.items():
        yield label, str(count), *(str(sum(name.startswith(f"{label}/") for name in found)) for found in sets)


def _twice(found: Duplicates | None) -> Iterable[str]:
    """The duplicates in words."""
    if found is None:
        return
    for kind, pairs in (("equal files", found.exact), ("alike", found.near)):
        leaks, crossing = sum(p.leak for p in pairs), sum(p.crossing for p in pairs)
        yield f"{kind}: {len(pairs)} pairs, {leaks} across the split, {crossing} across classes"
        yield from (f"  {_pair(pair)}" for pair in pairs[:SPELLED])
        if len(pairs) > SPELLED:
            yield f"  and {len(pairs) - SPELLED} more"


def _pair(pair: Pair) -> str:
    where = "one trains, the other tests" if pair.leak else "on one side"
    return f"{pair.one} and {pair.other}: {where}, similarity {pair.similarity:.3f}"


def _line(name: str, options: GlobalOptions) -> tuple[str, ...]:
    """One line of `data list`; a broken plugin gets one too."""
    from ddbench.datasets.lookup import find_dataset

    try:
        source = find_dataset(name)
    except UserError as error:
        return name, str(error), "", "", "broken"
    return name, source.title, str(len(source.classes)), str(source.pixels), _presence(source, options)


def _presence(source: Source, options: GlobalOptions) -> str:
    try:
        split = source.describe(options.data_paths)
    except MissingDataError:
        return "missing"
    except UserError:
        return f"incomplete: see ddbench data show {source.name}"
    return f"{sum(map(len, split.train))} train, {sum(map(len, split.test))} test"


def _split(source: Source, options: GlobalOptions) -> list[tuple[str, str]]:
    try:
        split = source.describe(options.data_paths)
    except UserError as error:
        return [("images", str(error))]
    sides = f"{sum(map(len, split.train))} training, {sum(map(len, split.test))} test"
    return [("found", sides), ("rule", split.rule), ("fingerprint", split.fingerprint)]
