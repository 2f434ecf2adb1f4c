"""Write the page: results to HTML. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ddbench.leaderboard.table import Table
from ddbench.report import pictures, plots
from ddbench.report.audits import HEADS, Line, audit_lines
from ddbench.report.cells import ReportCell, collect_cells, student_matrices, to_json
from ddbench.report.leakage import plot_leakage, run_groups
from ddbench.store.audits import Audit, audit_path
from ddbench.store.reader import RunsScan
from ddbench.version import __version__

log = logging.getLogger("ddbench")

MAX_PICTURE_BYTES = 7_000_000  # of all pictures as they are stored in the page
MAX_AUDIT_BYTES = 2_000_000  # of all sheets of closest pairs
MAX_SHEET_BYTES = 400_000


@dataclass(frozen=True)
class PictureSheet:
    """Pictures of one distilled set.

    title: dataset, method and seed
    classes: names in the order of the pictures
    pictures: (caption, data URL)
    """

    title: str
    classes: tuple[str, ...]
    pictures: list[tuple[str, str]]


@dataclass(frozen=True)
class AuditSection:
    """One audit.

    title: dataset, method, seed and embedding
    lines: of audits.HEADS
    picture: data URL of the closest pairs; empty for none
    """

    title: str
    lines: list[Line]
    picture: str


def page(scan: RunsScan, shared: Path | None = None) -> str:
    """Return the page, which needs no other file; problems and failures are named at its top.

    scan: of a runs folder, with details and costs
    shared: folder of shared stages, for prototypes
    """
    from jinja2 import Environment, StrictUndefined

    board, cells = collect_cells(scan)
    folder = files("ddbench.report")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (folder / "page.html.j2").read_text()
    )
    leakage = [(group.title, plots.page_svg(plot_leakage([group]))) for group in run_groups(cells, scan.audits)]
    data = json.dumps([to_json(cell) for cell in cells], allow_nan=False)
    return template.render(
        cells=cells, plots=_plots(board, cells), matrices=student_matrices(board), sheets=_sheets(cells, shared),
        audits=_audits(cells, scan.audits), audit_heads=HEADS, leakage=leakage,
        problems=[*scan.problems, *scan.failed], version=__version__,
        style=(folder / "page.css").read_text(), script=(folder / "page.js").read_text(),
        data=data.replace("<", "\\u003c"),  # a script element ends at the first </script>
    )  # fmt: skip


def _plots(board: Table, cells: Sequence[ReportCell]) -> list[dict[str, str]]:
    """Return a title and plots for each dataset, size, protocol and student; a plot without data is empty."""
    groups, names = [], plots.stage_names(cells)
    for column in plots.plot_groups(board):
        group = [cell for cell in cells if cell.column.any_ipc == column]
        first = group[0].column
        setting = f"{first.protocol}, {first.student}, {first.init}, {first.precision}, evaluators {first.evaluators}"
        groups.append({
            "title": f"{first.dataset}, {first.size} px, split {first.split_label}, {setting}",
            "curves": plots.accuracy_over_ipc(board, column), "ratios": plots.equal_accuracy(group, board.rows),
            "cost": plots.accuracy_over_cost(group, board.rows), "stages": plots.seconds_by_stage(group, names),
        })  # fmt: skip
    return groups


def _sheets(cells: Sequence[ReportCell], shared: Path | None) -> list[PictureSheet]:
    """Return the pictures of each distilled set with a budget; those of all training images are omitted."""
    runs = {run: cell for cell in cells if cell.column.ipc for run in cell.costs}
    available = {run: cell for run, cell in runs.items() if (run / "distilled").is_dir()}
    if missing := [run for run in runs if run not in available]:
        more = ", ..." * (len(missing) > 1)
        log.warning("no images on the page for %d runs without a distilled set: %s%s", len(missing), missing[0], more)
    budget = MAX_PICTURE_BYTES * 3 // 4 // max(1, len(available))  # base64 turns three bytes into four
    sheets = (_sheet(run, cell, shared, budget) for run, cell in available.items())
    return [sheet for sheet in sheets if sheet]


def _audits(cells: Sequence[ReportCell], audits: Mapping[Path, tuple[Audit, ...]]) -> list[AuditSection]:
    """Return the audits of every run on the page."""
    runs = {run: cell for cell in cells for run in cell.costs if audits.get(run)}
    size = min(MAX_SHEET_BYTES, MAX_AUDIT_BYTES // max(1, sum(len(audits[run]) for run in runs)))
    sections = []
    for run, cell in runs.items():
        for audit in audits[run]:
            image = pictures.audit_sheet(audit_path(run, audit.by, audit.version))
            title = f"{_set_title(run, cell)}, by {audit.by}"
            sections.append(
                AuditSection(title, audit_lines(run, audit), pictures.data_url(image, size) if image else "")
            )
    return sections


def _set_title(run: Path, cell: ReportCell) -> str:
    """Return the dataset, method and seed of a distilled set."""
    seed, column = run.name.partition("-")[0].removeprefix("seed"), cell.column
    return f"{column.dataset}, {column.size} px, IPC {column.ipc}: {cell.row.label}, seed {seed}"


def _sheet(run: Path, cell: ReportCell, shared: Path | None, budget: int) -> PictureSheet | None:
    """Return the pictures of one set, of at most `budget` bytes; None where its images cannot be read."""
    distilled = pictures.distilled_images(run)
    if not distilled:
        return None
    image, classes = distilled
    captioned = [("the distilled images", image)]
    stage = cell.costs[run].folders.get("prototypes") if shared else None
    prototypes = pictures.prototypes(shared / stage / "images", classes) if shared and stage else None
    if prototypes:
        captioned.append(("its prototypes (real images)", prototypes))
    captioned += [("its images (black edges) among real ones", plane) for plane in pictures.feature_maps(run)]
    size = min(MAX_SHEET_BYTES, budget // len(captioned))
    return PictureSheet(
        _set_title(run, cell), classes, [(caption, pictures.data_url(drawn, size)) for caption, drawn in captioned]
    )
