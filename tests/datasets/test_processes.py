"""Rows of a file, written by several processes; by threads where there can be none."""

import subprocess
import sys

import pytest

# as where /dev/shm is read-only, full or missing
NO_SEMAPHORES = """
import _multiprocessing, errno, os, sys
class SemLock:
    SEM_VALUE_MAX = _multiprocessing.SemLock.SEM_VALUE_MAX
    def __init__(self, *given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")
_multiprocessing.SemLock = SemLock
from pathlib import Path
from ddbench.datasets.processes import run_workers
def write(descriptor, rows):
    for row in rows:
        os.pwrite(descriptor, bytes([row]), row)
    return len(rows)
print(sum(run_workers(write, Path(sys.argv[1]), range(100), "writing", quiet=True)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such semaphores")
def test_without_semaphores_threads_write_the_rows(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(b"")
    process = subprocess.run(
        [sys.executable, "-c", NO_SEMAPHORES, str(raw)], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (0, "100\n"), process.stderr
    assert raw.read_bytes() == bytes(range(100))
