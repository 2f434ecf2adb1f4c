"""`ddbench data`: what datasets there are, whether they are whole, and packing them."""

from __future__ import annotations

from typing import Any

import click

from ddbench.commands.common import SIZE, SIZE_HELP, Globals, Group, grid
from ddbench.datasets.facts import MissingDataError
from ddbench.errors import UserError


@click.group(cls=Group)
def data() -> None:
    """Datasets: list, prepare, verify, show.

    Raw images are looked for below --data-root (DDBENCH_DATA); packs go below --shared.

    \b
    Examples:
      ddbench data list
      ddbench --data-root ~/data data verify ucm
      ddbench data prepare folder:my_images --size 64
    """


@data.command("list")
@click.pass_obj
def list_sources(options: Globals) -> None:
    """Every dataset, and whether its images are there."""
    from ddbench.registry import names

    click.echo(grid([_line(name, options) for name in names("datasets")], ("name", "title", "classes", "px", "images")))


@data.command()
@click.argument("dataset")
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.pass_obj
def prepare(options: Globals, dataset: str, size: int | None) -> None:
    """Check, resize and pack a dataset, so that runs start at once."""
    from ddbench.registry import load

    source = load("datasets", dataset)
    size = size or source.pixels
    made = source.load(options.place, size)
    click.echo(f"{source.name}, {size} px: {len(made.train.labels)} training, {len(made.test.labels)} test images")


@data.command()
@click.argument("dataset")
@click.pass_obj
def verify(options: Globals, dataset: str) -> None:
    """Decode every image; status 1 when one cannot be read."""
    from ddbench.registry import load

    report = load("datasets", dataset).verify(options.place)
    click.echo(f"{report.name}: {sum(report.counts.values())} images in {report.folder}")
    click.echo(grid([(name, str(count)) for name, count in report.counts.items()], ("class", "images")))
    click.echo("sizes: " + ", ".join(f"{width}x{height}: {count}" for (width, height), count in report.sizes.items()))
    for line in report.unreadable:
        click.echo(f"unreadable: {line}")
    if not report.ok:
        raise SystemExit(1)


@data.command()
@click.argument("dataset")
@click.pass_obj
def show(options: Globals, dataset: str) -> None:
    """The facts, and the split of the images that are there."""
    from ddbench.registry import load

    source = load("datasets", dataset)
    click.echo(grid([*source.card(), *_split(source, options)], ("field", "value")))


def _line(name: str, options: Globals) -> tuple[str, ...]:
    """One line of `data list`; a broken plugin gets one too."""
    from ddbench.registry import load

    try:
        source = load("datasets", name)
    except UserError as error:
        return name, str(error), "", "", "broken"
    return name, source.title, str(len(source.classes)), str(source.pixels), _presence(source, options)


def _presence(source: Any, options: Globals) -> str:
    try:
        split = source.describe(options.place)
    except MissingDataError:
        return "missing"
    except UserError:
        return f"incomplete: see ddbench data show {source.name}"
    return f"{sum(map(len, split.train))} train, {sum(map(len, split.test))} test"


def _split(source: Any, options: Globals) -> list[tuple[str, str]]:
    try:
        split = source.describe(options.place)
    except UserError as error:
        return [("images", str(error))]
    sides = f"{sum(map(len, split.train))} training, {sum(map(len, split.test))} test"
    return [("found", sides), ("rule", split.rule), ("fingerprint", split.fingerprint)]
