"""Tables are no wider than the terminal, and say all that they say without one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from tabulate import tabulate

from ddbench.utils.text_table import NARROWEST, column_blocks, fit_cells, fit_prose

WORDS = st.text("abc ", max_size=60).map(lambda text: " ".join(text.split()))
TABLES = st.integers(1, 5).flatmap(
    lambda columns: st.lists(st.lists(WORDS, min_size=columns, max_size=columns), min_size=2, max_size=4)
)


def lines(rows):
    head, *body = rows
    return tabulate(body, head, tablefmt="simple", disable_numparse=True).split("\n")


@given(TABLES, st.integers(NARROWEST * 5 + 8, 200))
def test_wrapped_tables_fit_and_lose_nothing(rows, width):
    fitted = fit_cells(rows, width)
    assert max(map(len, lines(fitted))) <= width
    for row, wrapped in zip(rows, fitted, strict=True):
        assert ["".join(cell.split()) for cell in row] == ["".join(cell.split()) for cell in wrapped]


@given(TABLES)
def test_a_table_that_fits_is_left_as_it_is(rows):
    assert fit_cells(rows, 400) == rows
    assert column_blocks(rows, 400) == [rows]


def test_words_stay_whole_where_there_is_room():
    rows = [["name", "meaning"], ["embedding", "student whose penultimate features are used"]]
    assert fit_cells(rows, 32)[1] == ["embedding", "student whose\npenultimate features\nare used"]


def test_columns_stand_in_blocks_behind_the_first():
    rows = [["method", *(f"scenes IPC {ipc}" for ipc in (1, 10, 50))], ["random", *["61.2 ± 0.8 (n=3)"] * 3]]
    blocks = column_blocks(rows, 48)
    assert [len(block[0]) for block in blocks] == [3, 2]
    assert [block[0][0] for block in blocks] == ["method", "method"]
    assert [cell for block in blocks for cell in block[1][1:]] == rows[1][1:]
    assert max(len(line) for block in blocks for line in lines(block)) <= 48


def test_a_command_fits_its_terminal_and_has_full_width_in_a_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    command = [sys.executable, "-m", "ddbench", "show", "quick@1"]
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lead, follow = pty.openpty()
    with subprocess.Popen(command, stdout=follow, stderr=subprocess.DEVNULL) as process:
        os.close(follow)
        parts = []
        while True:
            try:
                parts.append(os.read(lead, 1 << 16))
            except OSError:  # the other end is closed
                break
        os.close(lead)
    assert process.returncode == 0
    on_terminal = b"".join(parts).decode().replace("\r\n", "\n")
    assert max(map(len, on_terminal.splitlines())) <= 72
    assert sorted("".join(on_terminal.split()).replace("-", "")) == sorted("".join(piped.split()).replace("-", ""))
    assert max(map(len, tables(piped))) > 140


def test_prose_flows_and_keeps_what_begins_a_line():
    long = "A sentence of a paragraph that a source file has broken somewhere after its eightieth letter,"
    text = f"title\ninit: scratch\n\n{long}\nand that goes on.\n- an item\n    code"
    assert fit_prose(text, 100) == text
    shown = fit_prose(text, 40).split("\n")
    assert shown[:3] == ["title", "init: scratch", ""]
    assert max(map(len, shown)) <= 40
    assert " ".join(shown[3:-2]) == f"{long} and that goes on."
    assert shown[-2:] == ["- an item", "    code"]


def tables(text):
    """The lines of tables: in a paragraph with a rule of dashes."""
    return [
        line
        for paragraph in text.split("\n\n")
        if re.search(r"^-+(  +-+)+$", paragraph, re.MULTILINE)
        for line in paragraph.split("\n")
    ]
