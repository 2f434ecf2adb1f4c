"""Statistics of a leaderboard: intervals, components of variance, paired tests. Pure; fractions in, fractions out.

A *run* is one distillation, here the list of its students' accuracies; its mean is what counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.05  # what a test calls different


def half_width(means: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of runs, by Student's t with n - 1 degrees; None for one run."""
    if len(means) < 2:
        return None
    from scipy.special import stdtrit  # a third of a second

    return float(stdtrit(len(means) - 1, 1 - LEVEL / 2)) * statistics.stdev(means) / math.sqrt(len(means))


def within(runs: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation among the students of a run, pooled over runs; None where no run has two."""
    several = [run for run in runs if len(run) > 1]
    if not several:
        return None
    freedom = sum(len(run) - 1 for run in several)
    return math.sqrt(math.fsum(_squares(run) for run in several) / freedom)


def _squares(run: Sequence[float]) -> float:
    """The sum of squared deviations from the mean; statistics.variance takes ten times as long."""
    mean = math.fsum(run) / len(run)
    return math.fsum((value - mean) ** 2 for value in run)


def between(runs: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation among runs, without what their students add to it; None where either is unknown.

    The estimate of a random-effects analysis of variance: variance of the means less the students' share of it, at
    least 0.
    """
    inner = within(runs)
    if len(runs) < 2 or inner is None:
        return None
    share = inner**2 * statistics.fmean(1 / len(run) for run in runs)
    return math.sqrt(max(0.0, statistics.variance([statistics.fmean(run) for run in runs]) - share))


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """P-value of the paired t-test, two-sided, over the seeds that both have.

    None where those are fewer than two, or the two are apart by the same at each: methods that know no seed, mostly,
    whose seeds are one observation.
    """
    apart = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if len(apart) < 2:
        return None
    mean, spread = statistics.fmean(apart), statistics.stdev(apart)
    if spread == 0:
        return 1.0 if mean == 0 else None
    from scipy.special import stdtr

    return 2 * float(stdtr(len(apart) - 1, -abs(mean) / (spread / math.sqrt(len(apart)))))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm 1979): none of all falsely below the level with that probability."""
    corrected, highest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(values.items(), key=lambda pair: (pair[1], pair[0]))):
        highest = max(highest, min(1.0, (len(values) - rank) * value))
        corrected[name] = highest
    return corrected


def ties(by_row: Mapping[str, Mapping[int, float]]) -> set[str]:
    """The row with the highest mean, and those that are not told from it; by_row: a run's mean by its seed, by row.

    Not told from it is what has the same mean, or a corrected p-value of LEVEL or more. A row that cannot be tested
    against the best (see `paired`) is no tie unless the means are the same.
    """
    means = {row: statistics.fmean(seeds.values()) for row, seeds in by_row.items()}
    if not means:
        return set()
    top = max(means.values())
    best = min(row for row, mean in means.items() if mean == top)
    tested = {row: paired(by_row[best], seeds) for row, seeds in by_row.items() if row != best}
    corrected = holm({row: value for row, value in tested.items() if value is not None})
    return {row for row, mean in means.items() if mean == top} | {row for row, p in corrected.items() if p >= LEVEL}


def average_ranks(means: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Of the rows that have every column, the mean of their ranks (1 the best; equal ones share the mean of theirs)."""
    columns = {column for cells in means.values() for column in cells}
    whole = {row: cells for row, cells in means.items() if cells.keys() == columns}
    ranks: dict[str, list[float]] = {row: [] for row in whole}
    for column in columns:
        values = [cells[column] for cells in whole.values()]
        for row, cells in whole.items():
            above, equal = sum(v > cells[column] for v in values), sum(v == cells[column] for v in values)
            ranks[row].append(above + (equal + 1) / 2)
    return {row: statistics.fmean(found) for row, found in ranks.items()} if columns else {}
