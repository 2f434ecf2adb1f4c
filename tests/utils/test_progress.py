"""Progress in a log file: whole lines, now and then; on a terminal: a bar."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest

from ddbench.cli.common import log_to_stderr
from ddbench.utils import progress
from ddbench.utils.progress import ProgressLines, progress_bar


@pytest.fixture
def at_once(monkeypatch):
    """Every step writes a line."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)


def test_a_log_file_gets_lines(at_once, capsys):
    for _ in progress_bar(range(3), desc="training"):
        pass
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"training: {n} of 3" for n in range(4)]
    assert all("passed" in line and "left" in line for line in lines)
    assert "\r" not in text


def test_lines_go_on_after_a_slowdown(monkeypatch, capsys):
    """Also where many steps came before: each slow step is due, and writes a line of its own."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.02)
    bar = progress_bar(total=100_003, desc="training")
    for _ in range(100_000):
        bar.update()
    capsys.readouterr()
    for _ in range(3):
        time.sleep(0.03)
        bar.update()
    lines = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"training: {n} of 100003" for n in (100_001, 100_002, 100_003)]


def test_a_log_message_repeats_no_line(at_once, capsys, monkeypatch):
    log = logging.getLogger("ddbench")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", log.level)
    log_to_stderr(logging.INFO)
    with progress_bar(total=2, desc="packing") as bar:
        bar.update()
        log.info("a message")
        bar.update()
    assert [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "packing: 0 of 2",
        "packing: 1 of 2",
        "a message",
        "packing: 2 of 2",
    ]


def test_what_takes_seconds_writes_nothing(capsys):
    assert list(progress_bar(range(100), desc="short")) == list(range(100))
    assert capsys.readouterr().err == ""


def test_hidden(at_once, capsys):
    assert list(progress_bar(range(3), desc="training", hidden=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = progress_bar(range(3), desc="training")
    assert not isinstance(bar, ProgressLines)
    list(bar)
    assert "\r" in terminal.getvalue()
