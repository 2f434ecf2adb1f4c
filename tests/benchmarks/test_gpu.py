"""benchmarks/gpu.py, small, on the CPU: every part measures; what fails or is late loses no other row."""

import sys
import time
from pathlib import Path

import pytest
import torch

PARTS = ("ceilings", "students", "sd2", "methods", "same-seed", "seeds")


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The scripts beside the package, which import one another by name."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield
        folder = str(Path(__file__).parents[2] / "benchmarks")
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


@pytest.fixture
def bench():
    from gpu_rows import Bench

    return Bench(torch.device("cpu"), time.monotonic() + 600, small=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_measures_each_of_its_cases(part, bench):
    from importlib import import_module

    rows = list(import_module(f"gpu_{part.replace('-', '_')}").rows(bench))
    assert len(rows) >= 2
    for row in rows:
        assert row.seconds or row.rate, row
        assert row.seconds is None or row.seconds > 0
        assert not row.note.startswith(("failed", "not reached")), row
        if part == "methods":  # the official structure and ours compute the same gradient
            assert row.figures["difference"] < 1e-5
        if part == "same-seed":
            assert row.figures["same"]


def test_parts_are_those_of_the_command():
    import gpu

    assert set(gpu.PARTS) == set(PARTS)
    assert sum(gpu.PARTS.values()) < 8 * 60


@pytest.mark.slow
def test_a_part_in_a_process_of_its_own_gives_its_rows():
    import gpu

    origin, *rows = gpu.run_part("ceilings", 60, small=True)
    assert origin["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {row.case for row in rows} >= {"matrix product", "copy", "launch"}


@pytest.mark.parametrize(("part", "seconds", "word"), [("nothing", 60, "failed"), ("students", -9.8, "stopped after")])
def test_a_part_that_fails_or_is_late_is_a_row(part, seconds, word):
    import gpu

    row = list(gpu.run_part(part, seconds, small=True))[-1]
    assert row.note.startswith(word)


def test_a_case_that_fails_keeps_the_rows_of_the_others(bench):
    from gpu_rows import Row, run_cases

    def breaks():
        yield Row("p", "first", "a", 1.0)
        raise MemoryError("no room\nfor it")

    cases = {"first": (0, breaks), "late": (10_000, breaks), "last": (0, lambda: [Row("p", "last", "a", 2.0)])}
    rows = list(run_cases("p", bench, cases))
    assert [(row.case, row.seconds) for row in rows] == [("first", 1.0), ("first", None), ("late", None), ("last", 2.0)]
    assert rows[1].note == "failed: MemoryError: no room"
    assert rows[2].note.startswith("not reached")


def test_a_way_that_fails_is_left_out_of_the_turns(bench):
    from gpu_rows import take_turns

    calls = []

    def breaks():
        calls.append("breaks")
        if len(calls) > 1:
            raise RuntimeError("out of memory")

    measurements = take_turns(bench, {"a": breaks, "b": lambda: calls.append("b") or len(calls)}, repeat=2)
    assert calls == ["breaks", "b", "breaks", "b", "b"]
    assert measurements["a"].error == "RuntimeError: out of memory"
    assert len(measurements["b"].seconds) == 2
    assert measurements["b"].value == 5


def test_a_row_survives_its_record():
    import gpu
    from gpu_rows import Row

    row = Row("p", "c", "w", 0.5, 2.0, "images", ratio=1.49, goal=1.5, peak_bytes=2**30, figures={"size": 64})
    assert gpu.row_of(row.record()) == row
    assert row.cells() == ("p", "c", "w", "0.5", "2 images", "1.49", "1.5 missed", "1.00", "")


@pytest.mark.slow
def test_the_command_ends_with_a_table(tmp_path):
    import json
    import subprocess

    script = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, script, "--small"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert len(lines) == 2 * len(records) + 1  # the surroundings have no row in the table, which has two of heads
    assert {record["part"] for record in records[1:]} == {part.replace("-", " ") for part in PARTS}
