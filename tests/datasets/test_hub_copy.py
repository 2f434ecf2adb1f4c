"""Copies of datasets on the Hugging Face hub: downloaded from a server on this machine that answers as the hub does."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.datasets import archives, download, hub_copy, transfer
from ddbench.datasets.info import RECORD, DatasetError, HubCopy, MissingDataError, UnreachableError
from ddbench.datasets.rs.siri_whu import SIRI_WHU

NEWEST = "1" * 40
OLDER = "2" * 40
NAMES = ["Beach", "forest ", "RIVER"]  # as the copy writes the toy dataset's classes


@pytest.fixture
def copied(toy, hub):
    """The toy dataset without an address, with a copy on the hub."""
    copy = HubCopy("me/toy", "files as they are", "the test", revision=OLDER)
    return replace(toy, address="", checksum="", copy=copy)


def table(picture, folder, count=10, name=lambda label, i: None, parts=2, side=12):
    """Tables of `count` images of each class, in an order of their own."""
    rows = {"image": [], "label": []}
    for i in range(count):
        for label in (2, 0, 1):
            out = io.BytesIO()
            picture(f"{label}{i}", side, side).save(out, "PNG")
            rows["image"].append({"bytes": out.getvalue(), "path": name(label, i)})
            rows["label"].append(label)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    every = datasets.Dataset.from_dict(rows, features=features)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        every.shard(parts, part, contiguous=True).to_parquet(folder / f"data/train-{part:05d}-of-{parts:05d}.parquet")
    (folder / "README.md").write_text("card")


def test_downloaded_counted_split_recorded(copied, hub, data_paths, picture, caplog):
    table(picture, hub.files("me/toy", OLDER))
    caplog.set_level("INFO", "ddbench")
    folder = download.fetch(copied, data_paths)
    data = copied.load(data_paths, 8)
    assert data.train.counts() == (5, 5, 5)
    assert data.train.classes == ("river", "beach", "forest")
    record = json.loads((folder / RECORD).read_text())
    assert record["hub"] == "me/toy"
    assert record["revision"] == OLDER
    assert record["images"] == {".png": 30}
    assert record["names"] == "numbers of the copy's rows"
    assert f"https://huggingface.co/datasets/me/toy, revision {OLDER}" in caplog.text
    assert "files as they are. Files: 30 PNG; names: numbers of the copy's rows" in caplog.text
    assert "files that are not read" not in caplog.text
    assert not list((data_paths.root / ".downloads").glob("toy*.hub"))
    assert not [path for path in hub.asked if "README" in path]
    assert copied.verify(data_paths).ignored == ()


def test_without_a_revision_the_newest_is_resolved_printed_and_recorded(copied, hub, data_paths, picture, caplog):
    table(picture, hub.files("me/toy", NEWEST))
    caplog.set_level("INFO", "ddbench")
    newest = replace(copied, copy=replace(copied.copy, revision=""))
    folder = download.fetch(newest, data_paths)
    assert json.loads((folder / RECORD).read_text())["revision"] == NEWEST
    assert f"revision {NEWEST}" in caplog.text


def test_names_of_the_rows_split_a_copy_as_the_release(copied, toy, hub, data_paths, grow, picture):
    release = grow(data_paths.root / "Images", toy.classes, 10)
    official = toy.describe(data_paths)
    shutil.rmtree(release)

    def name(label, i):
        return f"original/{NAMES[label].strip().lower()}{i:02d}.tif"

    table(picture, hub.files("me/toy", OLDER), name=name)
    folder = download.fetch(copied, data_paths)
    assert (folder / "Beach/beach03.png").is_file()
    assert json.loads((folder / RECORD).read_text())["names"] == "as stored in the copy"
    split = copied.describe(data_paths)
    assert [len(names) for names in split.train] == [5, 5, 5]
    stems = [[Path(name).with_suffix("").as_posix() for name in names] for names in split.train]
    assert stems == [[Path(name).with_suffix("").as_posix() for name in names] for names in official.train]


@pytest.mark.parametrize("name", [lambda label, i: "same.png", lambda label, i: f"{label}-{i}.png" if i else None])
def test_names_that_are_not_of_one_row_each_are_not_taken(copied, hub, data_paths, picture, name):
    table(picture, hub.files("me/toy", OLDER), name=name)
    folder = download.fetch(copied, data_paths)
    assert json.loads((folder / RECORD).read_text())["names"] == "numbers of the copy's rows"
    assert len(list(folder.rglob("row-*.png"))) == 30


def test_class_folders_are_taken_as_they_are(copied, hub, data_paths, grow, picture):
    grow(hub.files("me/toy", OLDER) / "data", NAMES, 10)
    picture("cover", 30, 30).save(hub.files("me/toy", OLDER) / "thumbnail.png")
    folder = download.fetch(replace(copied, copy=replace(copied.copy, files="data/*")), data_paths)
    assert (folder / "RIVER/RIVER09.png").is_file()
    assert json.loads((folder / RECORD).read_text())["images"] == {".png": 30}
    assert copied.load(data_paths, 8).test.counts() == (5, 5, 5)


def test_another_number_of_images_is_refused(copied, hub, data_paths, picture):
    table(picture, hub.files("me/toy", OLDER), count=9)
    with pytest.raises(DatasetError, match=r"toy has 30 images, .* has 27\.(.|\n)*Nothing of the copy me/toy was kept"):
        download.fetch(copied, data_paths)
    assert not (data_paths.root / "toy").exists()
    assert not list((data_paths.root / ".downloads").glob("toy*.hub"))


def test_another_class_is_refused(copied, hub, data_paths, grow):
    grow(hub.files("me/toy", OLDER) / "data", [*NAMES, "swamp"], 10)
    with pytest.raises(DatasetError, match=r"1 unknown \(swamp\)"):
        download.fetch(replace(copied, copy=replace(copied.copy, files="data/*")), data_paths)


def test_a_broken_download_goes_on(copied, hub, data_paths, grow, monkeypatch):
    """Files that arrived are not downloaded again."""
    grow(hub.files("me/toy", OLDER) / "data", NAMES, 10)
    copied = replace(copied, copy=replace(copied.copy, files="data/*"))
    monkeypatch.setattr(transfer, "RETRIES", 0)
    hub.down_after = 12
    with pytest.raises(UnreachableError, match=r"copy me/toy of the Hugging Face hub cannot be downloaded .*\nRepeat"):
        download.fetch(copied, data_paths)
    assert not (data_paths.root / "toy").exists()
    arrived = {path.name for path in (data_paths.root / ".downloads").rglob("*.png")}
    assert arrived
    hub.down_after, hub.asked[:] = None, []
    download.fetch(copied, data_paths)
    got = {path.rpartition("/")[2] for path in hub.gotten()}
    assert not got & arrived
    assert copied.describe(data_paths)


def test_a_part_that_is_the_whole_file_is_downloaded_again(copied, hub, data_paths, grow):
    """A process may be killed between the last byte and the file's name. A server then has no rest of it to send."""
    grow(hub.files("me/toy", OLDER) / "data", NAMES, 10)
    copied = replace(copied, copy=replace(copied.copy, files="data/*"))
    original = next((hub.files("me/toy", OLDER) / "data").rglob("*.png"))
    downloads = data_paths.root / ".downloads" / f"toy-{OLDER[:12]}.hub" / "data"
    part = downloads / original.parent.name / f"{original.name}.arriving12345678.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(original.read_bytes())
    download.fetch(copied, data_paths)
    assert not part.exists()
    assert copied.describe(data_paths)


def test_a_part_of_a_file_is_not_downloaded_again(copied, hub, data_paths, picture, monkeypatch):
    monkeypatch.setattr(transfer, "RETRIES", 0)
    table(picture, hub.files("me/toy", OLDER), count=10, parts=1, side=400)
    hub.broken = 3_000_000
    with pytest.raises(UnreachableError):
        download.fetch(copied, data_paths)
    hub.broken = 0
    hub.ranges.clear()
    download.fetch(copied, data_paths)
    assert copied.describe(data_paths)
    (start,) = {int(text.removeprefix("bytes=").removesuffix("-")) for text in hub.ranges}
    assert 2_000_000 < start <= 3_000_000


def test_a_file_that_is_not_the_hubs_is_thrown_away(copied, hub, data_paths, picture):
    table(picture, hub.files("me/toy", OLDER))
    hub.checksums = {"data/train-00001-of-00002.parquet": "0" * 64}
    with pytest.raises(DatasetError, match=r"train-00001-of-00002\.parquet sent a file with SHA-256 .* It was deleted"):
        download.fetch(copied, data_paths)
    hub.checksums = {}
    download.fetch(copied, data_paths)
    assert copied.describe(data_paths)


@pytest.mark.slow
def test_killed_and_called_again(hub, data_paths, grow):
    """A process is killed while it downloads; the next one downloads only the rest."""
    revision = "3" * 40
    grow(hub.files("me/siri", revision) / "data", SIRI_WHU.classes, 20, side=2)
    code = (
        "import logging, sys\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from ddbench.datasets.download import fetch\n"
        "from ddbench.datasets.info import DataPaths, HubCopy\n"
        "from ddbench.datasets.rs.siri_whu import SIRI_WHU\n"
        f"copy = HubCopy('me/siri', 'small', 'the test', {revision!r}, files='data/*')\n"
        "logging.basicConfig(level='INFO')\n"
        "fetch(replace(SIRI_WHU, counts=20, copy=copy), DataPaths(Path(sys.argv[1]), Path(sys.argv[1]), quiet=True))\n"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.address}
    command = [sys.executable, "-c", code, str(data_paths.root)]
    hub.pause = 0.02
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 60
        while len(hub.gotten()) < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    arrived = {path.relative_to(data_paths.root) for path in data_paths.root.rglob("*.png")}
    assert len(arrived) >= 10
    assert not (data_paths.root / "siri-whu").exists()
    hub.pause, hub.asked[:] = 0.0, []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((data_paths.root / "siri-whu").rglob("*.png"))) == 240
    got = {path.rpartition("/data/")[2] for path in hub.gotten()}
    assert not {"/".join(path.parts[-2:]) for path in arrived} & got
    assert f"revision {revision}" in done.stderr


def test_offline_there_is_one_message(copied, hub, data_paths):
    hub.stop()
    with pytest.raises(UnreachableError) as caught:
        download.fetch(copied, data_paths)
    first, second = str(caught.value).splitlines()
    assert re.fullmatch(r"toy: the copy me/toy of the Hugging Face hub cannot be downloaded \(.+\)\.", first)
    assert second.startswith("Repeat the command to continue, or get the images from https://example.org/toy and use")
    newest = replace(copied, copy=replace(copied.copy, revision=""))
    with pytest.raises(UnreachableError, match="the copy me/toy of the Hugging Face hub cannot be downloaded"):
        download.fetch(newest, data_paths)


def test_a_copy_replaces_an_address_that_does_not_answer(copied, hub, data_paths, grow, served, caplog):
    grow(hub.files("me/toy", OLDER) / "data", NAMES, 10)
    copied = replace(copied, copy=replace(copied.copy, files="data/*"))
    download.fetch(replace(copied, address=f"{served.address}/gone.zip"), data_paths)
    assert copied.describe(data_paths)
    assert f"The copy me/toy of the Hugging Face hub, revision {OLDER} replaces it" in caplog.text


def test_a_disk_that_is_too_small_is_said_before(copied, hub, data_paths, picture, monkeypatch):
    table(picture, hub.files("me/toy", OLDER))
    usage = shutil.disk_usage(data_paths.shared.parent)
    monkeypatch.setattr(hub_copy.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(archives.NoRoomError, match=r"toy needs \d+ kB while it is downloaded, .* has \d kB free"):
        download.fetch(copied, data_paths)
    assert hub.gotten() == []


def test_tables_need_a_library(copied, hub, data_paths, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"needs the library `datasets`: pip install 'ddbench\[hf\]'"):
        download.fetch(copied, data_paths)


def test_the_way_to_get_it_is_the_command(data_paths):
    with pytest.raises(
        MissingDataError, match="ddbench data prepare siri-whu downloads the copy jonathan-roberts1/SIRI"
    ):
        SIRI_WHU.describe(data_paths)
    output = CliRunner().invoke(cli, ["show", "siri-whu"]).output
    assert "148 MB" in output
    assert SIRI_WHU.copy.revision in re.sub(r"\s", "", output)
