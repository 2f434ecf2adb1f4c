"""Plots of accuracy against leakage: of audits of runs, and of the students of a canary plan. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ddbench.errors import UserError
from ddbench.leaderboard.labels import differing_settings, method_title, setting_text
from ddbench.report.audits import TITLES
from ddbench.report.cells import ReportCell, collect_cells
from ddbench.report.plots import SETTINGS, escape_label, line_styles
from ddbench.store.audits import MEMBERSHIP, USE, Audit, read_audits
from ddbench.store.canaries import ATTACKS, CanaryAudit
from ddbench.store.reader import RunsScan, read_run, report_problems
from ddbench.store.records import RunSpec, distilled_digest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LeakagePoint:
    """A method in a panel.

    label: of the method, as in the table. note: beside the point, what tells it from others of this label; or "".
    auc, low, high: of the attack, with its interval. accuracy, std: of the students, fractions; None for one set.
    """

    label: str
    note: str
    auc: float
    low: float
    high: float
    accuracy: float
    std: float | None


@dataclass(frozen=True)
class LeakageGroup:
    """A row of panels: methods whose students have the same data, protocol and network.

    title: names these. panels: name of an attack -> its points
    """

    title: str
    panels: Mapping[str, Sequence[LeakagePoint]]


def audited_cells(runs: Sequence[Path]) -> tuple[list[ReportCell], dict[Path, tuple[Audit, ...]]]:
    """Return the cells of the results of these runs, and the audits of their present sets.

    A file that cannot be used is logged. Raises ValueError for a run without a set.
    """
    scan = RunsScan()
    for run in runs:
        read_run(run, True, scan)
    report_problems(scan.problems)
    _, cells = collect_cells(scan)
    return cells, {run: read_audits(run, distilled_digest(run)) for run in runs}


def run_groups(cells: Sequence[ReportCell], audits: Mapping[Path, tuple[Audit, ...]]) -> list[LeakageGroup]:
    """Return a group for each dataset, size, protocol and student of the cells whose runs were all audited.

    audits: folder of a run -> its audits. Of several embeddings the first that all cells of a group have counts; AUC
    and limits are means over the runs of a cell. An attack without a finding has no point.
    """
    audited = [cell for cell in cells if all(audits.get(run) for run in cell.costs)]
    groups, labels = [], series_labels(audited)
    for column in dict.fromkeys(cell.column.any_ipc for cell in audited):
        group = [cell for cell in audited if cell.column.any_ipc == column]
        runs = [audits[run] for cell in group for run in cell.costs]
        by = next((one.by for one in runs[0] if all(one.by in (other.by for other in run) for run in runs)), None)
        ipcs = sorted({cell.column.ipc for cell in group} - {0})
        panels = {}
        for attack in (USE, MEMBERSHIP) if by else ():
            points = []
            for cell in group:
                label, setting = labels[cell.row.identity]
                ipc = f"IPC {cell.column.ipc}" if cell.column.ipc and len(ipcs) > 1 else ""
                if point := _run_point(cell, audits, attack, str(by)):
                    points.append(replace(point, label=label, note=", ".join(filter(None, (setting, ipc)))))
            if points:
                panels[f"{TITLES[attack]}, by {by}"] = points
        if panels:
            shared = f", IPC {ipcs[0]}" if len(ipcs) == 1 else ""
            title = f"{column.dataset}, {column.size} px{shared}, {column.protocol}, {column.student}"
            groups.append(LeakageGroup(title, panels))
    return groups


def series_labels(cells: Sequence[ReportCell]) -> dict[str, tuple[str, str]]:
    """Return the label and note of each row's points, by identity: a row's own label, and no note.

    Rows of one method and preset that differ by one number share a label, so that a plot joins their points, and have
    that number as their note: ("dpd (tiny-paper), by strength", "0.1").
    """
    labels = {cell.row.identity: (cell.row.label, "") for cell in cells}
    alike: dict[str, dict[str, RunSpec]] = {}
    for cell in cells:
        title = method_title(cell.row.method, cell.row.preset)
        alike.setdefault(title, {})[cell.row.identity] = cell.results[0].spec
    for title, rows in alike.items():
        settings = differing_settings(rows)
        names = {name for setting in settings.values() for name in setting}
        if len(names) != 1:
            continue
        (name,) = names
        values = {row: setting[name] for row, setting in settings.items() if name in setting}
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
        if numbers and len(set(values.values())) == len(rows):
            labels |= {row: (f"{title}, by {name}", setting_text(value)) for row, value in values.items()}
    return labels


def _run_point(cell: ReportCell, audits: Mapping[Path, tuple[Audit, ...]], attack: str, by: str) -> LeakagePoint | None:
    findings = [one.finding(attack) for run in cell.costs for one in audits[run] if one.by == by]
    known = [finding for finding in findings if finding]
    if len(known) < len(findings):
        return None
    auc, low, high = (fmean(getattr(finding, name) for finding in known) for name in ("auc", "auc_low", "auc_high"))
    return LeakagePoint(cell.row.label, "", auc, low, high, cell.cell.mean, cell.cell.std)


def canary_groups(audits: Sequence[CanaryAudit]) -> list[LeakageGroup]:
    """Return a group for each student of a plan; a method without a finding has no point."""
    groups = []
    for student in dict.fromkeys(one.student for one in audits):
        of_student = [one for one in audits if one.student == student]
        panels = {
            name: [
                LeakagePoint(one.label, "", lira.auc, lira.auc_low, lira.auc_high, one.accuracy, one.accuracy_std)
                for one in of_student
                if (lira := one.finding(name, audits))
            ]
            for name in ATTACKS
        }
        first = of_student[0]
        title = f"{first.dataset}, {first.size} px, {first.protocol}, {student}"
        if any(panels.values()):
            groups.append(LeakageGroup(title, {name: points for name, points in panels.items() if points}))
    return groups


def plot_leakage(groups: Sequence[LeakageGroup]) -> Figure:
    """Plot accuracy in % over the AUC of attacks, a row of panels for each group; bars: interval, sample deviation.

    Raises UserError without groups.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not groups:
        raise UserError("there is nothing to plot: no audited set has both a finding and a student's result")
    columns = max(len(group.panels) for group in groups)
    labels = list(dict.fromkeys(p.label for group in groups for points in group.panels.values() for p in points))
    styles = dict(zip(labels, line_styles(labels), strict=True))
    with rc_context(SETTINGS):
        size = 4.2 * columns + 2.8, max(3.8 * len(groups), 0.8 + 0.2 * len(labels))
        fig = Figure(figsize=size, layout="constrained")
        grid = fig.subplots(len(groups), columns, squeeze=False, sharey="row")
        for group, row in zip(groups, grid, strict=True):
            for axes in row[len(group.panels) :]:
                axes.set_axis_off()
            for (title, points), axes in zip(group.panels.items(), row, strict=False):
                _draw_panel(axes, points, styles)
                axes.set(xlabel=f"AUC: {title}")
            row[0].set_ylabel("overall accuracy, %")
            row[0].set_title(escape_label(group.title), loc="left", fontsize=10)
        handles: dict[str, Any] = {}
        for axes in grid.flat:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        fig.legend(handles.values(), handles, loc="outside right upper", fontsize=9)
    return fig


def _draw_panel(axes: Axes, points: Sequence[LeakagePoint], styles: Mapping[str, Mapping[str, str]]) -> None:
    """Draw the points with their notes; points of one label are joined, and a dotted line marks guessing."""
    axes.axvline(0.5, color="grey", linestyle=":", linewidth=1)
    for label in dict.fromkeys(point.label for point in points):
        own = [point for point in points if point.label == label]
        axes.errorbar(
            [point.auc for point in own],
            [100 * point.accuracy for point in own],
            yerr=[100 * (point.std or 0) for point in own],
            xerr=([point.auc - point.low for point in own], [point.high - point.auc for point in own]),
            label=escape_label(label), capsize=2, elinewidth=0.8, **styles[label],
        )  # fmt: skip
        for point in own:
            axes.annotate(point.note, (point.auc, 100 * point.accuracy), (4, 4), textcoords="offset points", fontsize=8)
