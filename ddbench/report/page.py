"""The page, from entries to HTML. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddbench import __version__
from ddbench.files import read_json
from ddbench.leaderboard import Table
from ddbench.report import plots
from ddbench.report.facts import Fact, gathered, told
from ddbench.report.pictures import sheet
from ddbench.runs import Entry, content_of
from ddbench.scanning import Problem

log = logging.getLogger("ddbench")

PICTURES = 7_000_000  # bytes of all pictures as they are stored in the page
LARGEST = 400_000  # of one sheet


@dataclass(frozen=True)
class Shown:
    """One distilled set: what it is, its sheet as a data address, the classes of its rows; maps: data addresses."""

    title: str
    address: str
    classes: list[str]
    maps: list[str]


def page(entries: Sequence[Entry], problems: Sequence[Problem]) -> str:
    """The whole page; it needs nothing but itself. problems: what could not be used, or failed: named at the top."""
    from jinja2 import Environment, StrictUndefined

    board, facts = gathered(entries)
    here = files("ddbench.report")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string((here / "page.html.j2").read_text())
    return template.render(
        facts=facts, plots=_plots(board, facts), sheets=_sheets(facts), problems=problems, version=__version__,
        style=(here / "page.css").read_text(), script=(here / "page.js").read_text(),
        data=_script([told(board, fact) for fact in facts]),
    )  # fmt: skip


def _script(value: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _plots(board: Table, facts: Sequence[Fact]) -> list[dict[str, str]]:
    """For each dataset, size, protocol and student: its title, and the drawings that there is something for."""
    found = []
    for kind in plots.kinds(board):
        mine = [fact for fact in facts if fact.where.any_ipc == kind]
        where = mine[0].where
        judged = f"{where.protocol}, {where.student}, {where.init}"
        found.append({
            "title": f"{where.dataset}, {where.size} px, split {where.split}, {judged}",
            "curves": plots.curves(board, kind), "cost": plots.against_cost(mine, board.rows),
            "stages": plots.stages(mine),
        })  # fmt: skip
    return found


def _sheets(facts: Sequence[Fact]) -> list[Shown]:
    """One for each distilled set under a budget; those of all training images are not shown."""
    runs: dict[Path, Fact] = {run: fact for fact in facts if fact.where.ipc for run in fact.runs}
    budget = min(LARGEST, PICTURES * 3 // 4 // max(1, len(runs)))  # base64 makes four of three
    found = []
    for run, fact in runs.items():
        if made := sheet(run, budget):
            seed = run.name.partition("-")[0].removeprefix("seed")
            title = f"{fact.where.dataset}, {fact.where.size} px, IPC {fact.where.ipc}: {fact.row.label}, seed {seed}"
            found.append(Shown(title, *made, _maps(run)))
    return found


def _maps(run: Path) -> list[str]:
    """Of the set that is there now, one for each network that `ddbench quality --metric map` asked."""
    try:
        found = [read_json(path) for path in sorted(run.glob("quality/map-*.json"))]
        return [plots.plane(one["values"]) for one in found if one["content"] == content_of(run)]
    except (OSError, ValueError, KeyError) as error:
        log.warning("no map of %s: %s", run, error)
        return []
