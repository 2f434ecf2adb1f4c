"""The page's drawings, as SVG: accuracy over IPC and over cost, what each stage took. Matplotlib; no torch."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

from PIL import Image

from ddbench.leaderboard.table import FULL, Column, Row, Table
from ddbench.report.cells import Fact

# Okabe and Ito (2008): told apart by the colour-blind; markers and dashes tell the rest
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "ddbench", "font.size": 11, "axes.spines.top": False,
            "axes.spines.right": False, "legend.frameon": False}  # fmt: skip
REST = "the rest"


def curves(board: Table, alike: Column) -> str:
    """Accuracy over images per class, one line a method, deviations as bars; `full` is a level."""
    fig, axes = _figure()
    columns = [c for c in board.columns if c.any_ipc == alike and c.ipc]
    for row, look in zip(board.rows, _looks(board.rows), strict=True):
        found = [(c.ipc, 100 * row.cells[c].mean, 100 * (row.cells[c].std or 0)) for c in columns if c in row.cells]
        if row.method == FULL and found:
            axes.axhline(found[0][1], color="grey", linestyle=":", label="full")
        elif found:
            axes.errorbar(*zip(*found, strict=True), label=plain(row.label), capsize=3, **look)
    axes.set(xscale="log", xlabel="images per class", ylabel="overall accuracy, %")
    ticks = sorted({c.ipc for c in columns})
    axes.set_xticks(ticks, [str(ipc) for ipc in ticks])
    axes.minorticks_off()
    return _svg(fig, axes)


def against_cost(facts: Sequence[Fact], rows: Sequence[Row]) -> str:
    """Accuracy over the seconds of a distillation, the IPC beside each mark; empty where no cost is known."""
    looks = dict(zip((row.identity for row in rows), _looks(rows), strict=True))
    known = [fact for fact in facts if fact.seconds is not None and fact.where.ipc]
    if not known:
        return ""
    fig, axes = _figure()
    for fact in known:
        at = max(fact.seconds, 0.1), 100 * fact.cell.mean
        axes.plot(*at, label=plain(fact.row.label), **looks[fact.row.identity] | {"linestyle": "none"})
        axes.annotate(str(fact.where.ipc), at, (4, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="seconds of a distillation", ylabel="overall accuracy, %")
    return _svg(fig, axes)


def stages(facts: Sequence[Fact], names: Sequence[str]) -> str:
    """Seconds of each stage of a distillation, one bar a run; empty where none is known. names: all there are."""
    bars = {}
    for fact in facts:
        for run, took in fact.took.items():
            if took.seconds is not None and took.seconds >= 1:
                rest = max(0.0, took.seconds - sum(took.stages.values()))
                title = plain(f"{fact.row.label}, IPC {fact.where.ipc}, {run.name.partition('-')[0]}")
                bars[title] = {**took.stages, REST: rest}
    if not bars:
        return ""
    fig, axes = _figure(height=1.2 + 0.3 * len(bars))
    left = dict.fromkeys(bars, 0.0)
    looks = product(("", "///"), COLOURS)  # a hatch tells the ninth from the first
    for name, (hatch, colour) in [*zip(names, cycle(looks), strict=False), (REST, ("", "#999999"))]:
        widths = [parts.get(name, 0.0) for parts in bars.values()]
        if any(widths):
            start = list(left.values())
            axes.barh(list(bars), widths, left=start, label=name, color=colour, hatch=hatch, edgecolor="white")
        left = {bar: at + width for (bar, at), width in zip(left.items(), widths, strict=True)}
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    return _svg(fig, axes)


def stage_names(facts: Sequence[Fact]) -> list[str]:
    """Of all runs' stages, as they come; so that one has the same colour in every drawing."""
    return list(dict.fromkeys(name for fact in facts for took in fact.took.values() for name in took.stages))


def plain(label: str) -> str:
    """A label that matplotlib takes as it is: no formula, and not hidden for its underscore."""
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def plane(found: Mapping[str, Any]) -> Image.Image:
    """Where a set's images lie among real ones (values of the metric map), drawn."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        fig = Figure(figsize=(8, 6), dpi=80, layout="constrained")
        axes = fig.subplots()
        for i, name in enumerate(found["real"]):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
            axes.scatter(*zip(*found["real"][name], strict=True), s=8, color=colour, marker=marker, alpha=0.35)
            own = list(zip(*found["distilled"][name], strict=True)) or [(), ()]
            axes.scatter(*own, s=70, color=colour, marker=marker, edgecolors="black", label=plain(name))
        axes.set(xticks=[], yticks=[], xlabel=f"the plane holds {100 * found['explained']:.0f} % of the variance")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, ncols=1 + len(found["real"]) // 24)
        out = io.BytesIO()
        fig.savefig(out, format="png")
    return Image.open(out).convert("RGB")


def kinds(board: Table) -> list[Column]:
    """What the columns of one plot share: all but the IPC."""
    return list(dict.fromkeys(column.any_ipc for column in board.columns if column.ipc))


def _looks(rows: Sequence[Row]) -> list[dict]:
    """A colour, a marker and a dash for each row; no two alike among the first thirty."""
    return [
        {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
         "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}
        for i in range(len(rows))
    ]  # fmt: skip


def _figure(height: float = 4.5):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        fig = Figure(figsize=(8, height), layout="constrained")
        return fig, fig.subplots()


def _svg(fig, axes) -> str:
    """The drawing as a part of an HTML page, its legend beside it, each name once."""
    from matplotlib import rc_context

    out = io.StringIO()
    marks, names = axes.get_legend_handles_labels()
    one = dict(zip(names, marks, strict=True))
    fig.set_figheight(max(fig.get_figheight(), 0.8 + 0.2 * len(one)))
    with rc_context(SETTINGS):
        axes.legend(one.values(), one, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
        fig.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return _own_ids(text[text.index("<svg") :])


def _own_ids(svg: str) -> str:
    """The drawing with names in it that no other drawing of the page has: a closed one would take its hatches along."""
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>d{mark}-", svg)
