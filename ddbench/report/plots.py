"""Plots of the page, as SVG: accuracy over IPC and over cost, seconds by stage. Matplotlib; no torch."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from PIL import Image

from ddbench.leaderboard.table import FULL, RANDOM, Column, Row, Table
from ddbench.report.cells import ReportCell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): colour-blind people can tell them apart; markers and dashes tell the rest
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "ddbench", "font.size": 11, "axes.spines.top": False,
            "axes.spines.right": False, "legend.frameon": False}  # fmt: skip
REST = "the rest"


def plot_groups(board: Table) -> list[Column]:
    """Return what the columns of one plot share: everything but the IPC."""
    return list(dict.fromkeys(column.any_ipc for column in board.columns if column.ipc))


def accuracy_over_ipc(board: Table, group: Column) -> str:
    """Plot accuracy over images per class, a line for each method, with deviations; `full` is a level."""
    fig, axes = _figure()
    columns = [c for c in board.columns if c.any_ipc == group and c.ipc]
    for row, style in zip(board.rows, line_styles(board.rows), strict=True):
        points = [(c.ipc, 100 * row.cells[c].mean, 100 * (row.cells[c].std or 0)) for c in columns if c in row.cells]
        if row.method == FULL and points:
            axes.axhline(points[0][1], color="grey", linestyle=":", label="full")
        elif points:
            axes.errorbar(*zip(*points, strict=True), label=escape_label(row.label), capsize=3, **style)
    axes.set(xscale="log", xlabel="images per class", ylabel="overall accuracy, %")
    ticks = sorted({c.ipc for c in columns})
    axes.set_xticks(ticks, [str(ipc) for ipc in ticks])
    axes.minorticks_off()
    return _svg(fig, axes)


def equal_accuracy(cells: Sequence[ReportCell], rows: Sequence[Row]) -> str:
    """Plot the images of `random` for the same accuracy, per image, with intervals; empty where no row has a ratio.

    An arrow is the end of the curve of `random`: the ratio or its interval goes on there.
    """
    styles = dict(zip((row.identity for row in rows), line_styles(rows), strict=True))
    compared = [cell for cell in cells if "ratio" in cell.extras and cell.row.method != RANDOM]
    if not compared:
        return ""
    from matplotlib.ticker import LogLocator

    fig, axes = _figure(height=1.2 + 0.3 * len(compared))
    axes.axvline(1, color="grey", linestyle=":", label="random")
    names = [escape_label(f"{cell.row.label}, IPC {cell.column.ipc}") for cell in compared]
    for place, cell in enumerate(compared):
        style: dict[str, Any] = styles[cell.row.identity] | {"linestyle": "none"}
        values: Mapping[str, Any] = cell.extras
        limits = {name: values[name] for name in ("ratio_low", "ratio_high") if name in values}
        axes.plot(list(limits.values()), [place] * len(limits), color=style["color"])
        for name in ("ratio", *limits):
            relation = values[f"{name}_relation"]
            if relation != "=":
                style = style | {"marker": relation, "markersize": 9}
            if relation != "=" or name == "ratio":
                axes.plot(values[name], place, **style)
    axes.set_yticks(range(len(names)), names)
    xlabel = "images of random for the same accuracy, per image"
    axes.set(xscale="log", xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    return _svg(fig, axes)


def accuracy_over_cost(cells: Sequence[ReportCell], rows: Sequence[Row]) -> str:
    """Plot accuracy over the seconds of a distillation, with the IPC at each mark; empty where no cost is known."""
    styles = dict(zip((row.identity for row in rows), line_styles(rows), strict=True))
    points = [(cell, cell.extras["seconds"]) for cell in cells if "seconds" in cell.extras and cell.column.ipc]
    if not points:
        return ""
    fig, axes = _figure()
    for cell, seconds in points:
        point = max(float(seconds or 0), 0.1), 100 * cell.cell.mean
        axes.plot(*point, label=escape_label(cell.row.label), **styles[cell.row.identity] | {"linestyle": "none"})
        axes.annotate(str(cell.column.ipc), point, (4, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="seconds of a distillation", ylabel="overall accuracy, %")
    return _svg(fig, axes)


def seconds_by_stage(cells: Sequence[ReportCell], names: Sequence[str]) -> str:
    """Plot the seconds of each stage, a bar for each run of at least a second; empty where none is known.

    names: of all stages on the page, so that one has the same colour in every plot
    """
    bars: dict[str, dict[str, float]] = {}
    for cell in cells:
        for run, cost in cell.costs.items():
            if cost.seconds is not None and cost.seconds >= 1:
                rest = max(0.0, cost.seconds - sum(cost.stages.values()))
                seed = run.name.partition("-")[0]
                bars[escape_label(f"{cell.row.label}, IPC {cell.column.ipc}, {seed}")] = {**cost.stages, REST: rest}
    if not bars:
        return ""
    fig, axes = _figure(height=1.2 + 0.3 * len(bars))
    starts = [0.0] * len(bars)
    styles = product(("", "///"), COLOURS)  # a hatch tells the ninth from the first
    for name, (hatch, colour) in [*zip(names, cycle(styles), strict=False), (REST, ("", "#999999"))]:
        widths = [stages.get(name, 0.0) for stages in bars.values()]
        if any(widths):
            axes.barh(list(bars), widths, left=starts, label=name, color=colour, hatch=hatch, edgecolor="white")
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    return _svg(fig, axes)


def stage_names(cells: Sequence[ReportCell]) -> list[str]:
    """Return the names of all runs' stages, in order of occurrence."""
    return list(dict.fromkeys(name for cell in cells for cost in cell.costs.values() for name in cost.stages))


def feature_plane(values: Mapping[str, Any]) -> Image.Image:
    """Draw the images of a set among real ones, from the values of the metric map."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        fig = Figure(figsize=(8, 6), dpi=80, layout="constrained")
        axes = fig.subplots()
        for i, name in enumerate(values["real"]):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
            axes.scatter(*zip(*values["real"][name], strict=True), s=8, color=colour, marker=marker, alpha=0.35)
            distilled = list(zip(*values["distilled"][name], strict=True)) or [(), ()]
            axes.scatter(*distilled, s=70, color=colour, marker=marker, edgecolors="black", label=escape_label(name))
        axes.set(xticks=[], yticks=[], xlabel=f"the plane holds {100 * values['explained']:.0f} % of the variance")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, ncols=1 + len(values["real"]) // 24)
        out = io.BytesIO()
        fig.savefig(out, format="png")
    return Image.open(out).convert("RGB")


def escape_label(label: str) -> str:
    """Escape a label for matplotlib, which takes $ for a formula and hides labels that begin with an underscore."""
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def line_styles(rows: Sequence[object]) -> list[dict[str, str]]:
    """Return a colour, a marker and a dash for each row; the first thirty all differ."""
    return [
        {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
         "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
        for i in range(len(rows))
    ]  # fmt: skip


def _figure(height: float = 4.5) -> tuple[Figure, Axes]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        fig = Figure(figsize=(8, height), layout="constrained")
        return fig, fig.subplots()


def _svg(fig: Figure, axes: Axes) -> str:
    """Return the plot as a part of an HTML page, with a legend that has each name once."""
    from matplotlib import rc_context

    marks, names = axes.get_legend_handles_labels()
    legend = dict(zip(names, marks, strict=True))
    fig.set_figheight(max(fig.get_figheight(), 0.8 + 0.2 * len(legend)))
    with rc_context(SETTINGS):
        axes.legend(legend.values(), legend, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return page_svg(fig)


def page_svg(fig: Figure) -> str:
    """Return a figure as a part of an HTML page."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(SETTINGS):
        fig.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # ids that no other plot of the page has: closing a plot would remove hatches that others refer to
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>d{prefix}-", svg)
