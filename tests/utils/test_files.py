"""Files are complete or absent, and what a killed process left of them goes."""

import os
import subprocess
import threading

import pytest

from ddbench.utils import files
from ddbench.utils.files import make_once, remove_stale_files, write_json


def test_a_file_is_written_without_what_a_killed_process_left_of_it(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".a.json.{gone.pid}.tmp").touch()
    of_others = {f".a.json.{os.getpid()}.tmp", f".a.json.other-{gone.pid}.tmp", f".b.json.{gone.pid}.tmp"}
    for name in of_others:
        (tmp_path / name).touch()
    write_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *of_others}


def test_files_of_a_process_that_is_about_to_end_are_waited_for(tmp_path, monkeypatch):
    """Its lock can be free before its number is."""
    ending, living = subprocess.Popen(["sleep", "0.3"]), subprocess.Popen(["sleep", "30"])
    left, held = (tmp_path / f".a.json.{process.pid}.tmp" for process in (ending, living))
    left.touch()
    threading.Thread(target=ending.wait).start()
    remove_stale_files(tmp_path)
    assert not left.exists()
    held.touch()
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    remove_stale_files(tmp_path)
    assert held.exists()
    living.kill()
    living.wait()
    remove_stale_files(tmp_path)
    assert not held.exists()


def test_of_a_folder_that_cannot_be_made_nothing_is_kept(tmp_path):
    def make(partial):
        (partial / "large").write_bytes(b"0")
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        make_once(tmp_path / "set", make)
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]


@pytest.mark.parametrize("text", ["", *map(chr, range(128)), "Köln", "\u2028", "a\udc80b", 'path/"x"\\y.png'])
def test_the_digest_of_plain_values_is_their_digest(text):
    value = [3, {f"b{text}": (2**63, -5), text: [text, True, None], "a": {}}, ()]
    assert files.digest_plain(value) == files.digest(value)
