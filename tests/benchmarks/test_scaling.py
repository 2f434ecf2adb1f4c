"""benchmarks/scaling.py: exponents, extrapolation, and every task on a few images."""

import math
import sys
from pathlib import Path

import pytest

TASKS = ("packing", "loading", "latents", "prototypes", "embedding", "herding", "kcenter", "evaluation", "quality",
         "audit", "duplicates", "leaderboard")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The scripts beside the package, which import one another by name."""
    before, folder = set(sys.modules), str(Path(__file__).parents[2] / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


@pytest.mark.parametrize("task", [pytest.param(t, marks=[pytest.mark.slow] * (t == "latents")) for t in TASKS])
def test_a_task_runs_and_again_on_the_same_inputs(task, tmp_path):
    from scaling_cells import TASKS as KNOWN
    from scaling_cells import Cell

    assert tuple(KNOWN) == TASKS
    cell = Cell(task, images=40, classes=2, ipc=3, results=4)
    KNOWN[task](cell, tmp_path)()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "stages"}
    KNOWN[task](cell, tmp_path)()
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_a_cell_in_a_process_of_its_own(tmp_path):
    from scaling import run_cell
    from scaling_cells import Cell

    cost = run_cell(Cell("herding", images=8000, classes=2, ipc=8), tmp_path, 60)
    assert cost.processor > 0
    assert 0 < cost.seconds < 60
    assert cost.bytes > 2**20  # of some 100 MiB; on a busy machine the highest may fall between two looks
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        run_cell(Cell("nothing"), tmp_path, 60)


def test_exponents_are_those_of_a_power():
    from scaling import slope

    assert slope([(10**k, 3 * 10 ** (1.5 * k)) for k in range(3, 6)]) == pytest.approx(1.5)
    assert slope([(10, 0.0), (100, 5.0), (1000, 5.0)]) == pytest.approx(0)
    assert math.isnan(slope([(10, 1.0)]))


def test_cells_beyond_the_limit_continue_the_last_two(monkeypatch):
    import scaling
    from scaling import Cost

    calls = []

    def measured(cell, folder, limit):
        calls.append(cell.images)
        return Cost(1e-7 * cell.images**1.5, 1.0, 100 + 2 * cell.images)

    monkeypatch.setattr(scaling, "run_cell", measured)
    costs = {cell.images: cost for cell, cost in scaling.measure_axis("herding", "images", Path(), 10.0, {})}
    assert calls == [1000, 10_000, 100_000]
    assert costs[100_000] == Cost(pytest.approx(3.162, rel=1e-3), 1.0, 200_100)
    last = costs[1_000_000]
    assert not last.measured
    assert last.seconds == pytest.approx(100)
    assert last.processor == pytest.approx(10)  # at least in proportion
    assert last.bytes == pytest.approx(2_000_100)
    row = scaling.summary("herding", "images", costs, "seconds")
    assert row[2].split()[-1] == "~100"
    assert row[3:6] == ["1.50", "1.50", "over"]


def test_a_cell_that_is_killed_is_continued(monkeypatch):
    import scaling
    from scaling import Cost

    costs = {1: Cost(1.0, 1.0, 8), 3: Cost(3.0, 3.0, 8), 10: None, 30: None, 100: None}
    calls = []
    monkeypatch.setattr(scaling, "run_cell", lambda cell, folder, limit: calls.append(cell.ipc) or costs[cell.ipc])
    cells = [(cell.ipc, cost) for cell, cost in scaling.measure_axis("herding", "ipc", Path(), 99.0, {})]
    assert calls == [1, 3, 10]
    assert [ipc for ipc, _ in cells] == [1, 3, 10, 30, 100]
    assert [cost.measured for _, cost in cells] == [True, True, False, False, False]
    assert [cost.seconds for _, cost in cells] == pytest.approx([1, 3, 10, 30, 100])
