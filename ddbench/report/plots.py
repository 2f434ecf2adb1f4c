"""The page's drawings, as SVG: accuracy over IPC and over cost, what each stage took. Matplotlib; no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any

from PIL import Image

from ddbench.leaderboard import FULL, Column, Row, Table
from ddbench.report.facts import Fact, cost

# Okabe and Ito (2008): told apart by the colour-blind; markers and dashes tell the rest
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
MARKERS, DASHES = "osD^vPX*", ("-", "--", "-.", ":")
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "ddbench", "font.size": 11, "axes.spines.top": False,
            "axes.spines.right": False, "legend.frameon": False}  # fmt: skip


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
    """Accuracy over the seconds of a distillation; empty where none is known."""
    looks = dict(zip((row.identity for row in rows), _looks(rows), strict=True))
    known = [fact for fact in facts if fact.seconds is not None and fact.where.ipc]
    if not known:
        return ""
    fig, axes = _figure()
    for fact in known:
        look = looks[fact.row.identity] | {"linestyle": "none"}
        label = plain(f"{fact.row.label}, IPC {fact.where.ipc}")
        axes.plot(max(fact.seconds, 0.1), 100 * fact.cell.mean, label=label, **look)
    axes.set(xscale="log", xlabel="seconds of a distillation", ylabel="overall accuracy, %")
    return _svg(fig, axes)


def stages(facts: Sequence[Fact]) -> str:
    """Seconds of each stage of a distillation, one bar a run; empty where none is known."""
    bars = {}
    for fact in facts:
        for run in fact.runs:
            parts = {part["stage"]: part["seconds"] for part in cost(run).get("stages", []) if not part.get("reused")}
            whole = cost(run).get("seconds")
            if whole is not None and whole >= 1:
                rest = max(0.0, whole - sum(parts.values()))
                title = plain(f"{fact.row.label}, IPC {fact.where.ipc}, {run.name.partition('-')[0]}")
                bars[title] = parts | {"the rest": rest}
    if not bars:
        return ""
    fig, axes = _figure(height=1.2 + 0.3 * len(bars))
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    left = dict.fromkeys(bars, 0.0)
    looks = product(("", "///"), COLOURS)  # a hatch tells the ninth from the first
    for name, (hatch, colour) in zip(names, cycle(looks), strict=False):
        widths = [parts.get(name, 0.0) for parts in bars.values()]
        axes.barh(
            list(bars), widths, left=list(left.values()), label=name, color=colour, hatch=hatch, edgecolor="white"
        )
        left = {bar: at + width for (bar, at), width in zip(left.items(), widths, strict=True)}
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    return _svg(fig, axes)


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
    """The drawing as a part of an HTML page, its legend beside it."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(SETTINGS):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
        fig.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
