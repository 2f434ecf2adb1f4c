"""`ddbench figure`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import DATASET, OutputFile, UserPath
from ddbench.errors import UserError, unknown
from ddbench.runner.options import GlobalOptions

if TYPE_CHECKING:
    from ddbench.report.figure import DistilledRun, TrainingImages

IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}


@click.command()
@click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=UserPath())
@click.option("--class", "classes", metavar="NAME", multiple=True, help="Only this class; repeatable.  [default: all]")
@click.option(
    "--images", type=click.IntRange(1, 100), default=1, show_default=True, help="Images per class and column."
)
@click.option("--real", is_flag=True, help="Begin with a column of real training images.")
@click.option(
    "--prototypes/--no-prototypes",
    default=True,
    show_default=True,
    help="Before a run that started from real images, draw those.",
)
@click.option(
    "--dataset",
    type=DATASET,
    metavar="NAME|folder:PATH",
    help="Dataset of real images.  [default: the one that the runs name]",
)
@click.option(
    "--title", "titles", metavar="TEXT", multiple=True, help="Head of a run's column; one for each, in their order."
)
@click.option("--output", type=OutputFile(), default="figure.png", show_default=True, help="PNG, JPEG, WebP or PDF.")
@click.pass_obj
def figure(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    classes: tuple[str, ...],
    images: int,
    real: bool,
    prototypes: bool,
    dataset: str | None,
    titles: tuple[str, ...],
    output: Path,
) -> None:
    """Draw the images of several runs side by side.

    A row is a class, a column a run: the first images of its distilled set. DPD's k-th image of a class starts from the
    k-th prototype of that class, a real image. A column to the left of the run shows these prototypes; runs with the
    same ones share it. RUN is a run's folder, or one above several. All runs have one dataset, split and size.

    \b
    Examples:
      ddbench figure runs/scenes64 --real
      ddbench figure runs/ucm64/dpd/ipc10/seed0-* --class beach --class harbor --images 4 --output dpd.pdf
    """
    from ddbench.report.figure import check_same_data, columns, read_runs
    from ddbench.utils.contact_sheet import draw_columns
    from ddbench.utils.files import write_bytes

    if output.suffix.lower() not in IMAGE_FORMATS:
        raise UserError(f"{output}: a figure is one of {', '.join(IMAGE_FORMATS)}: name such a file")
    runs = read_runs(folders)
    check_same_data(runs)
    if titles and len(titles) != len(runs):
        run_folders = ", ".join(str(run.folder) for run in runs)
        raise UserError(
            f"there are {len(titles)} --title for {len(runs)} runs ({run_folders}): give one for each, or none"
        )
    names = runs[0].pictures.classes
    for name in classes:
        if name not in names:
            raise unknown("class", name, names)
    labels = [names.index(name) for name in dict.fromkeys(classes)] or list(range(len(names)))
    prototypes = prototypes and any(run.prototypes for run in runs)
    training = _training_images(options, runs[0], dataset) if real or prototypes else None
    drawn = columns(runs, labels, images, training if real else None, training if prototypes else None, titles)
    out = io.BytesIO()
    draw_columns(drawn, [names[label] for label in labels]).save(out, IMAGE_FORMATS[output.suffix.lower()])
    write_bytes(output, out.getvalue())
    click.echo(f"{output}: {len(labels)} classes; columns: {', '.join(head for head, _ in drawn)}")


def _training_images(options: GlobalOptions, run: DistilledRun, dataset: str | None) -> TrainingImages:
    """Load the training images of a run's split. Raises UserError where they are not there or differ."""
    from ddbench.datasets.lookup import find_dataset
    from ddbench.report.figure import TrainingImages
    from ddbench.utils.images import to_array

    name = dataset or run.spec.dataset
    try:
        source = find_dataset(name)
        split = source.describe(options.data_paths)
    except UserError as error:
        raise UserError(f"{error}\n--no-prototypes without --real draws the distilled images alone") from None
    if split.fingerprint != run.spec.fingerprint:
        raise UserError(
            f"{run.folder} was distilled from the split {run.spec.fingerprint[:8]} of {run.spec.dataset}; {name} has "
            f"the split {split.fingerprint[:8]}: name the run's dataset with --dataset"
        )
    train = source.load(options.data_paths, run.spec.size).train
    return TrainingImages(train.labels.numpy(), lambda rows: to_array(train.images[rows]))
