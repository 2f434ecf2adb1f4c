"""Progress on standard error: a bar on a terminal; in a log file a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} passed, {remaining} left{postfix}"


class ProgressLines(tqdm):
    """A progress bar that writes lines instead of redrawing one: nothing for what takes seconds."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(self, file=self.fp, flush=True)

    def close(self) -> None:
        if not self.disable:
            self.disable = True
            type(self)._decr_instances(self)  # type: ignore[attr-defined]


def progress_bar(
    iterable: Iterable[Any] | None = None, *, desc: str, total: int | None = None, hidden: bool = False
) -> tqdm[Any]:
    """Return the iterable with its progress on standard error; without an iterable call `update(n)`."""
    if sys.stderr.isatty():
        return tqdm(iterable, desc, total, disable=hidden, leave=False, dynamic_ncols=True)
    return ProgressLines(
        iterable, desc, total, disable=hidden, bar_format=LINE,
        mininterval=SECONDS_BETWEEN_LINES, delay=SECONDS_BETWEEN_LINES,
        miniters=1,  # tqdm's own choice skips lines after a slowdown, and its monitor then repeats the last one
    )  # fmt: skip


def progress_bars(quiet: bool) -> Callable[[Iterable[Any], str, int], Iterable[Any]]:
    """Return progress(iterable, description, total), which shows the progress on standard error."""
    return lambda items, desc, total: progress_bar(items, desc=desc, total=total, hidden=quiet)
