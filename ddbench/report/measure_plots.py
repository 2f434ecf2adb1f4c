"""Plots of the measures: accuracy over what a measure varies, a line for each row, with deviations. No torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddbench.errors import UserError
from ddbench.leaderboard.measures import MeasuredRow, mean_seconds, mean_steps
from ddbench.leaderboard.places import place_fields
from ddbench.leaderboard.render import HEAD_TEXTS
from ddbench.report.plots import SETTINGS, escape_label, line_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axis = tuple[str, Callable[[MeasuredRow, float], float]]  # its label, (row, x) -> place

MOST_TICKS = 12  # labels that fit below a panel
LINEAR = ("continual",)  # measures whose axis is not logarithmic
AXES: dict[str, tuple[Axis, ...]] = {  # of a measure, one for each panel
    "budget": (("optimizer steps", mean_steps), ("seconds of a student", mean_seconds)),
    "continual": (("classes so far", lambda _, x: x),),
}


def plot_measure(measure: str, rows: Sequence[MeasuredRow]) -> Figure:
    """Plot overall accuracy in %, a panel for each of the measure's axes; bars are sample standard deviations.

    Raises UserError for a measure without a plot, and without rows.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    if measure not in AXES:
        raise UserError(f"{measure} has no plot, but {', '.join(AXES)}")
    if not rows:
        raise UserError("there is nothing to plot: no student has a result")
    axes_of = AXES[measure]
    differ = place_fields([row.column for row in rows], ())
    with rc_context(SETTINGS):
        fig = Figure(figsize=(4.5 * len(axes_of) + 2, 4.5), layout="constrained")
        panels = fig.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
        for row, style in zip(rows, line_styles(rows), strict=True):
            label = ", ".join([row.label, *(HEAD_TEXTS[name](row.column) for name in differ)])
            cells = dict(sorted(row.cells.items()))
            means = [100 * cell.mean for cell in cells.values()]
            deviations = [100 * (cell.std or 0) for cell in cells.values()]
            for panel, (_, place) in zip(panels, axes_of, strict=True):
                places = [place(row, x) for x in cells]
                panel.errorbar(places, means, deviations, label=escape_label(label), capsize=3, **style)
        for panel, (name, place) in zip(panels, axes_of, strict=True):
            ticks = sorted({place(row, x) for row in rows for x in row.cells})
            panel.set(xlabel=name, xscale="linear" if measure in LINEAR else "log")
            if measure not in LINEAR:
                panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            if len(ticks) <= MOST_TICKS and all(tick.is_integer() for tick in map(float, ticks)):
                panel.set_xticks(ticks)
            panel.xaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
        panels[0].set_ylabel("overall accuracy, %")
        marks, names = panels[0].get_legend_handles_labels()
        fig.legend(marks, names, loc="outside lower center", ncols=2, fontsize=9)
    return fig


def encode(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the bytes of a file, equal for equal figures. suffix: one of PLOTS."""
    from matplotlib import rc_context

    out = io.BytesIO()
    date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with rc_context(SETTINGS):
        figure.savefig(out, format=suffix[1:], metadata=date, dpi=150)
    return out.getvalue()
