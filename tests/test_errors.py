"""Errors that end a command by a message of their own."""

import errno

import pytest

from ddbench.errors import disk_error


def test_a_full_or_read_only_disk_is_recognised_behind_other_errors():
    full = OSError(errno.ENOSPC, "No space left on device", "a.json")
    outer = ValueError("not written")
    outer.__cause__ = full
    assert disk_error(outer) is full
    text = disk_error(RuntimeError("I/O error: Read-only file system (os error 30)"))  # as safetensors says it
    assert text is not None
    assert text.errno == errno.EROFS


@pytest.mark.parametrize("error", [None, ValueError("no"), OSError(errno.EIO, "Input/output error")])
def test_others_are_not(error):
    assert disk_error(error) is None
