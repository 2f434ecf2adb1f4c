"""Statistics of a leaderboard: intervals, components of variance, paired tests. Pure; fractions in, fractions out.

A *run* is one distillation, here the list of its students' accuracies; its mean is what counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
LEVEL = 0.05  # significance level of tests, and 1 - coverage of intervals


def half_width(means: Sequence[float]) -> float | None:
    """Return half of the 95 % interval of the mean of runs: Student's t, n - 1 degrees of freedom; None for one run."""
    if len(means) < 2:
        return None
    return t_quantile(len(means)) * statistics.stdev(means) / math.sqrt(len(means))


def t_quantile(n: int) -> float:
    """Return the factor of the 95 % interval of a mean of n runs: Student's t, n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # importing it takes a third of a second

    return float(stdtrit(n - 1, 1 - LEVEL / 2))


def within_std(runs: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation among the students of a run, pooled over runs; None where no run has two."""
    several = [run for run in runs if len(run) > 1]
    if not several:
        return None
    degrees = sum(len(run) - 1 for run in several)
    return math.sqrt(math.fsum(_sum_of_squares(run) for run in several) / degrees)


def _sum_of_squares(run: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean; statistics.variance takes ten times as long."""
    mean = math.fsum(run) / len(run)
    return math.fsum((value - mean) ** 2 for value in run)


def between_std(runs: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation among runs, without what their students add; None where either is unknown.

    The estimate is that of a random-effects analysis of variance: the variance of the means less the students' share of
    it, at least 0.
    """
    inner = within_std(runs)
    if len(runs) < 2 or inner is None:
        return None
    share = inner**2 * statistics.fmean(1 / len(run) for run in runs)
    return math.sqrt(max(0.0, statistics.variance([statistics.fmean(run) for run in runs]) - share))


def paired_t_test(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Return the two-sided p-value of the paired t-test over the seeds that both have.

    None for fewer than two shared seeds, and for the same difference at each seed. The latter are mostly methods that
    use no seed, whose seeds are one observation.
    """
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if len(differences) < 2:
        return None
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    if std == 0:
        return 1.0 if mean == 0 else None
    from scipy.special import stdtr

    return 2 * float(stdtr(len(differences) - 1, -abs(mean) / (std / math.sqrt(len(differences)))))


def holm_correction(values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for their number (Holm 1979): it bounds the probability of any false rejection."""
    corrected, highest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(values.items(), key=lambda pair: (pair[1], pair[0]))):
        highest = max(highest, min(1.0, (len(values) - rank) * value))
        corrected[name] = highest
    return corrected


def best_and_ties(by_row: Mapping[str, Mapping[int, float]]) -> set[str]:
    """Return the row with the highest mean and the rows that tie with it.

    A row ties when it has the same mean, or a corrected p-value of LEVEL or more. A row that cannot be tested against
    the best (see `paired_t_test`) ties only with the same mean.

    by_row: row -> seed of a run -> mean of the run
    """
    means = {row: statistics.fmean(seeds.values()) for row, seeds in by_row.items()}
    if not means:
        return set()
    highest = max(means.values())
    best = min(row for row, mean in means.items() if mean == highest)
    tested = {row: paired_t_test(by_row[best], seeds) for row, seeds in by_row.items() if row != best}
    corrected = holm_correction({row: value for row, value in tested.items() if value is not None})
    return {row for row, mean in means.items() if mean == highest} | {row for row, p in corrected.items() if p >= LEVEL}


def average_ranks(means: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Return the mean rank over columns of every row that has all columns: 1 is best, equal means share their ranks."""
    columns = {column for cells in means.values() for column in cells}
    complete = {row: cells for row, cells in means.items() if cells.keys() == columns}
    ranks: dict[str, list[float]] = {row: [] for row in complete}
    for column in columns:
        values = [cells[column] for cells in complete.values()]
        for row, cells in complete.items():
            above, equal = sum(v > cells[column] for v in values), sum(v == cells[column] for v in values)
            ranks[row].append(above + (equal + 1) / 2)
    return {row: statistics.fmean(values) for row, values in ranks.items()} if columns else {}
