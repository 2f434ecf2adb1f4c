"""Getting a dataset: downloaded from a server on this machine, or what the user has; interrupted at each step."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from ddbench.cli.main import cli
from ddbench.datasets import archives, download, transfer
from ddbench.datasets.info import DatasetError, MissingDataError
from ddbench.datasets.rs.mlrsnet import MLRSNET
from ddbench.datasets.rs.optimal31 import OPTIMAL31
from ddbench.errors import UserError


def zipped(tree, path, inside="Toy/Images"):
    with zipfile.ZipFile(path, "w") as box:
        for file in sorted(tree.rglob("*.png")):
            box.write(file, f"{inside}/{file.relative_to(tree)}")
        box.writestr(f"{inside}/readme.txt", "words")
        box.writestr(f"__MACOSX/{inside}/beach/._beach00.png", "left by an archiver")
    return path


@pytest.fixture
def archive(toy, grow, tmp_path, served):
    return zipped(grow(tmp_path / "tree", toy.classes, 10), served.folder / "toy.zip")


@pytest.fixture
def offered(toy, archive, served):
    """The toy dataset with an address that answers."""
    checksum = f"SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}"
    return replace(toy, address=f"{served.address}/toy.zip", checksum=checksum)


def test_downloaded_checked_unpacked_found(offered, data_paths):
    with pytest.raises(MissingDataError):
        offered.describe(data_paths)
    folder = download.fetch(offered, data_paths)
    assert folder == data_paths.root / "toy"
    assert offered.load(data_paths, 8).train.counts() == (5, 5, 5)
    assert not list(folder.rglob("*.txt"))
    assert not list((data_paths.root / ".downloads").glob("toy*"))


def test_fetched_again_is_not_downloaded_again(offered, data_paths, served):
    download.fetch(offered, data_paths)
    before = len(served.asked)
    shutil.rmtree(data_paths.root / ".downloads")
    (data_paths.root / ".downloads").mkdir()
    shutil.copy(served.folder / "toy.zip", data_paths.root / ".downloads/toy.zip")
    download.fetch(offered, data_paths)
    assert len(served.asked) == before


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(offered, data_paths, served, monkeypatch):
    monkeypatch.setattr(transfer, "RETRIES", 0)
    with zipfile.ZipFile(served.folder / "toy.zip", "a") as box:
        box.writestr("large.bin", os.urandom(3_000_000))
    whole = (served.folder / "toy.zip").read_bytes()
    offered = replace(offered, checksum=f"SHA-256 {hashlib.sha256(whole).hexdigest()}")
    served.broken = 2_000_000
    with pytest.raises(DatasetError, match="to continue"):
        download.fetch(offered, data_paths)
    assert not (data_paths.root / "toy").exists()
    download.fetch(offered, data_paths)
    first = int(served.asked[-1][1].removeprefix("bytes=").removesuffix("-"))
    assert 1_000_000 < first <= 2_000_000
    assert offered.describe(data_paths)


def test_a_wrong_checksum_is_thrown_away(offered, data_paths):
    wrong = replace(offered, checksum="SHA-256 " + "0" * 64)
    with pytest.raises(DatasetError, match=r"with SHA-256 [0-9a-f]{64}, not 0{64}\. It was deleted"):
        download.fetch(wrong, data_paths)
    assert not (data_paths.root / "toy").exists()
    assert not list((data_paths.root / ".downloads").glob("toy*"))
    download.fetch(offered, data_paths)


def test_md5_too(offered, data_paths, archive):
    checksum = f"MD5 {hashlib.md5(archive.read_bytes()).hexdigest()}"
    download.fetch(replace(offered, checksum=checksum), data_paths)


def test_an_address_that_does_not_answer(offered, data_paths, served, monkeypatch):
    monkeypatch.setattr(transfer, "RETRIES", 0)
    with pytest.raises(DatasetError, match=r"gone\.zip cannot be downloaded .*\n.*--from FILE"):
        download.fetch(replace(offered, address=f"{served.address}/gone.zip"), data_paths)
    served.stop()
    with pytest.raises(DatasetError, match=r"toy\.zip cannot be downloaded"):
        download.fetch(offered, data_paths)


def test_an_address_of_the_hub_obeys_the_hubs_variables(offered, data_paths, served, monkeypatch):
    offered = replace(offered, address=f"{transfer.HUB}/toy.zip")
    monkeypatch.setattr(constants, "ENDPOINT", served.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match=r"HF_HUB_OFFLINE forbids to download https.*toy\.zip\.\n.*--from FILE"):
        download.fetch(offered, data_paths)
    assert not served.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    download.fetch(offered, data_paths)
    assert offered.describe(data_paths)


def test_killed_while_unpacking(offered, data_paths, monkeypatch):
    original = archives.shutil.copyfileobj
    count = []

    def killed(*given):
        count.append(1)
        if len(count) == 7:
            raise KeyboardInterrupt
        original(*given)

    monkeypatch.setattr(archives.shutil, "copyfileobj", killed)
    with pytest.raises(KeyboardInterrupt):
        download.fetch(offered, data_paths)
    with pytest.raises(MissingDataError):
        offered.describe(data_paths)
    monkeypatch.setattr(archives.shutil, "copyfileobj", original)
    download.fetch(offered, data_paths)
    assert offered.describe(data_paths)


def test_an_archive_without_a_class(toy, grow, data_paths, tmp_path):
    tree = grow(tmp_path / "tree", toy.classes[:2], 10)
    with pytest.raises(DatasetError, match=r"1 missing \(forest\)(.|\n)*Nothing of .*part\.zip was kept"):
        download.fetch(toy, data_paths, zipped(tree, tmp_path / "part.zip"))
    grow(tree, ["forest"], 10)
    download.fetch(toy, data_paths, zipped(tree, tmp_path / "whole.zip"))
    assert toy.describe(data_paths)


def test_an_archive_of_something_else_is_not_kept(toy, grow, data_paths, tmp_path):
    tree = grow(tmp_path / "tree", ["cat", "dog"], 3)
    with pytest.raises(DatasetError, match=r"no class folder of toy \(river, beach, forest"):
        download.fetch(toy, data_paths, zipped(tree, tmp_path / "pets.zip", inside="pets"))
    assert not (data_paths.root / "toy").exists()


def test_a_folder_of_that_name_is_in_the_way_before_anything_is_downloaded(offered, data_paths, served):
    (data_paths.root / "toy").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"data/toy exists already: remove it, then repeat the command"):
        download.fetch(offered, data_paths)
    assert served.asked == []


def test_what_came_in_place_of_an_archive_without_a_checksum_is_thrown_away(offered, data_paths, served):
    unsaid, whole = replace(offered, checksum=""), (served.folder / "toy.zip").read_bytes()
    (served.folder / "toy.zip").write_text("<html>too many people fetched this file</html>")
    with pytest.raises(DatasetError, match="The download was deleted: repeat the command to download it again"):
        download.fetch(unsaid, data_paths)
    (served.folder / "toy.zip").write_bytes(whole)
    download.fetch(unsaid, data_paths)
    assert unsaid.describe(data_paths)


def test_what_does_not_fit_the_disk_is_kept_as_it_came(offered, data_paths, served, monkeypatch):
    with monkeypatch.context() as full:
        usage = shutil.disk_usage(data_paths.shared.parent)
        full.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(DatasetError, match="free"):
            download.fetch(replace(offered, checksum=""), data_paths)
    before = len(served.asked)
    download.fetch(offered, data_paths)
    assert len(served.asked) == before


def test_two_at_once_download_once(offered, data_paths, served):
    with ThreadPoolExecutor(2) as both:
        folders = list(both.map(lambda _: download.fetch(offered, data_paths), range(2)))
    assert folders == [data_paths.root / "toy"] * 2
    assert len({path for path, _ in served.asked}) == 1
    assert [byte_range for _, byte_range in served.asked].count("") <= 2  # one to look, one to get
    assert offered.describe(data_paths)


def test_names_as_windows_writes_them(toy, grow, data_paths, tmp_path):
    tree = grow(tmp_path / "tree", toy.classes, 10)
    with zipfile.ZipFile(tmp_path / "win.zip", "w") as box:
        for file in sorted(tree.rglob("*.png")):
            box.writestr(zipfile.ZipInfo(f"Toy\\{file.parent.name}\\{file.name}"), file.read_bytes())
    download.fetch(toy, data_paths, tmp_path / "win.zip")
    assert toy.describe(data_paths)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_what_the_user_has(toy, grow, data_paths, tmp_path, kind):
    tree, path = grow(tmp_path / "tree", toy.classes, 10), tmp_path / f"mine.{kind}"
    if kind == "zip":
        zipped(tree, path)
    else:
        with tarfile.open(path, "w:" + kind.partition(".")[2]) as box:
            box.add(tree, "some/where")
    download.fetch(toy, data_paths, path)
    assert toy.describe(data_paths)
    assert path.exists()


def test_a_folder_of_the_users_is_linked(toy, grow, data_paths, tmp_path):
    tree = grow(tmp_path / "tree", toy.classes, 10)
    download.fetch(toy, data_paths, tree)
    assert (data_paths.root / "toy").is_symlink()
    assert toy.describe(data_paths)
    assert download.fetch(toy, data_paths, tree) == data_paths.root / "toy"


def test_a_folder_without_the_classes_is_not_linked(toy, data_paths, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no class folder of toy .* was not linked"):
        download.fetch(toy, data_paths, tmp_path / "empty")
    assert not (data_paths.root / "toy").exists()


def test_no_address_says_how_in_three_lines(data_paths):
    with pytest.raises(DatasetError) as caught:
        download.fetch(MLRSNET, data_paths)
    first, *rest = str(caught.value).splitlines()
    assert first == "mlrsnet cannot be downloaded: it has no stable public address."
    assert len(rest) == 3
    assert "ddbench data prepare mlrsnet --from ARCHIVE_OR_FOLDER" in rest[1]
    assert "--data-root" in rest[2]


def test_a_drive_address_has_a_name_for_its_archive():
    assert OPTIMAL31.archive == "OPTIMAL-31.zip"
    assert "?" in OPTIMAL31.address.rpartition("/")[2]


def bad_zip(path, name, data=b"x"):
    with zipfile.ZipFile(path, "w") as box:
        box.writestr("beach/beach00.png", b"fine")
        box.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../outside.png", "beach/../../outside.png", "/tmp/outside.png", r"..\outside.png"])
def test_nothing_leaves_the_folder(tmp_path, name):
    (tmp_path / "into").mkdir()
    with pytest.raises(DatasetError, match="a path outside its folder: nothing was unpacked"):
        archives.unpack(bad_zip(tmp_path / "bad.zip", name), tmp_path / "into", quiet=True)
    with tarfile.open(tmp_path / "bad.tar", "w") as box:
        member = tarfile.TarInfo(name)
        member.size = 1
        box.addfile(member, io.BytesIO(b"x"))
    if "\\" not in name:  # a TAR's names are as they are
        with pytest.raises(DatasetError, match="a path outside its folder"):
            archives.unpack(tmp_path / "bad.tar", tmp_path / "into", quiet=True)
    assert list((tmp_path / "into").iterdir()) == []


def test_links_in_a_tar_are_left_out(tmp_path):
    (tmp_path / "into").mkdir()
    (tmp_path / "beach").mkdir()
    (tmp_path / "beach/beach00.png").write_bytes(b"x")
    (tmp_path / "beach/beach01.png").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "links.tar", "w") as box:
        box.add(tmp_path / "beach", "beach")
    assert archives.unpack(tmp_path / "links.tar", tmp_path / "into", quiet=True) == 1
    assert [path.name for path in (tmp_path / "into/beach").iterdir()] == ["beach00.png"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.rar", b"Rar!\x1a\x07\x00", "is a RAR archive, which ddbench cannot unpack"),
        ("a.7z", b"7z", "is a 7Z archive"),
        ("a.zip", b"no archive", "is not an archive of a known kind"),
    ],
)
def test_what_is_no_archive_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=said):
        archives.unpack(tmp_path / name, tmp_path, quiet=True)


@pytest.mark.parametrize("kind", ["stored", "deflated", "tar.gz", "tar.xz", "tar.bz2"])
def test_a_damaged_archive(toy, grow, data_paths, tmp_path, kind):
    tree, path = grow(tmp_path / "tree", toy.classes, 10, side=30), tmp_path / f"cut.{kind}"
    if kind.startswith("tar"):
        with tarfile.open(path, "w:" + kind[4:]) as box:
            box.add(tree, "some")
    else:
        packing = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", packing) as box:
            for file in sorted(tree.rglob("*.png")):
                box.write(file, file.relative_to(tree))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"cannot be unpacked|Nothing of .* was kept|is not an archive"):
        download.fetch(toy, data_paths, path)
    assert not (data_paths.root / "toy").exists()


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_damage_behind_the_last_image_is_damage(tmp_path, suffix):
    """The checksum of the whole stands at the end, where tarfile does not look."""
    path, into = tmp_path / f"toy.tar{suffix}", tmp_path / "into"
    with tarfile.open(path, f"w:{suffix[1:]}") as box:
        member = tarfile.TarInfo("beach/beach00.png")
        member.size = 1
        box.addfile(member, io.BytesIO(b"x"))
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        path.write_bytes(damaged)
        into.mkdir(exist_ok=True)
        with pytest.raises(DatasetError, match="cannot be unpacked"):
            archives.unpack(path, into, quiet=True)
        assert list(into.iterdir()) == []


def tar_of(count: int) -> bytes:
    """Return a TAR file of images of one byte."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as box:
        for index in range(count):
            member = tarfile.TarInfo(f"beach/beach{index:02d}.png")
            member.size = 1
            box.addfile(member, io.BytesIO(b"x"))
    return out.getvalue()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(
    ("start", "stop", "new", "match"),
    [
        (1024 + 100, 1024 + 101, b"9", "bad checksum at byte 1024"),  # in the header of the second file
        (1024, 1024, b"x" * 512, "header at byte 1024"),
        (2 * 1024, None, b"", "empty header at byte 2048"),  # cut between two files
        (2 * 1024 + 100, None, b"", "truncated header at byte 2048"),
        (-1, None, b"x", "data behind its end"),
        (None, None, tar_of(1), "data behind its end"),
    ],
)
def test_a_tar_is_read_up_to_its_end(tmp_path, compress, start, stop, new, match):
    """Python's module takes a header that is damaged or lacks as the end, and leaves out the files behind."""
    whole = tar_of(3)
    start = len(whole) if start is None else start
    damaged = whole[:start] + new + (b"" if stop is None else whole[stop:])
    path, into = tmp_path / "toy.tar", tmp_path / "into"
    path.write_bytes(compress(damaged))
    into.mkdir()
    with pytest.raises(DatasetError, match=match):
        archives.unpack(path, into, quiet=True)
    assert list(into.iterdir()) == []
    path.write_bytes(compress(whole))
    assert archives.unpack(path, into, quiet=True) == 3


@pytest.mark.parametrize("name", ["beach/beach00.png", "beach/beach00.png/a.png"])
def test_two_files_of_one_name_are_refused(tmp_path, name):
    (tmp_path / "into").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zipfile
        path = bad_zip(tmp_path / "bad.zip", name)
    with pytest.raises(DatasetError, match="contains two files of one name"):
        archives.unpack(path, tmp_path / "into", quiet=True)


@pytest.mark.parametrize("changes", [{42: b"\xff\xff"}, {8: b"\x00\x08", 46: b"\xff"}])
def test_a_zip_of_impossible_offsets_or_names_is_damaged(tmp_path, changes):
    """In the directory at its end: the place of a file; a name that is no UTF-8 although its flag says so."""
    path = bad_zip(tmp_path / "bad.zip", "a.png")
    data = bytearray(path.read_bytes())
    for offset, new in changes.items():
        start = data.index(b"PK\x01\x02") + offset
        data[start : start + len(new)] = new
    path.write_bytes(data)
    (tmp_path / "into").mkdir()
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        archives.unpack(path, tmp_path / "into", quiet=True)


def test_a_name_that_is_too_long_for_the_disk(tmp_path):
    with pytest.raises(DatasetError, match="contains a file name that is too long"):
        archives.unpack(bad_zip(tmp_path / "long.zip", f"beach/{'x' * 300}.png"), tmp_path, quiet=True)


def test_an_archive_of_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as box:
        box.writestr("Images/beach.rar", b"x")
    with pytest.raises(DatasetError, match=r"contains 1 archives \(Images/beach\.rar"):
        archives.unpack(tmp_path / "a.zip", tmp_path, quiet=True)
    assert archives.unpack(bad_zip(tmp_path / "b.zip", "readme.zip"), tmp_path, quiet=True) == 1


def test_what_does_not_fit_the_disk_is_said_before(tmp_path, archive, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DatasetError, match=r"needs \d+ kB unpacked, .* has \d kB free"):
        archives.unpack(archive, tmp_path, quiet=True)


def prepared(data_paths, *words):
    base = ["--data-root", data_paths.root, "--shared", data_paths.shared, "-q", "data", "prepare"]
    return CliRunner().invoke(cli, [str(word) for word in (*base, *words)])


def test_prepare_from_an_archive(data_paths, grow, tmp_path):
    from ddbench.datasets.rs.siri_whu import SIRI_WHU

    tree = grow(tmp_path / "tree", SIRI_WHU.classes, 200, side=2)
    done = prepared(data_paths, "siri-whu", "--from", zipped(tree, tmp_path / "siri.zip"), "--size", "8")
    assert done.exit_code == 0, done.output
    assert done.stdout == "siri-whu, 8 px: 1920 training, 480 test images\n"
    again = prepared(data_paths, "siri-whu", "--from", tmp_path / "siri.zip")
    assert again.exit_code == 2
    assert "exist already" in again.output


def test_prepare_of_what_cannot_be_got(data_paths, tmp_path):
    os.makedirs(data_paths.root)
    done = prepared(data_paths, "mlrsnet")
    assert done.exit_code == 2
    assert "ddbench data prepare mlrsnet --from ARCHIVE_OR_FOLDER" in done.output
    done = prepared(data_paths, "scenes", "--from", tmp_path)
    assert done.exit_code == 2
    assert "does not apply to" in done.output


def test_prepare_all_goes_on_after_a_failure_and_ends_with_a_table(offered, grow, data_paths, monkeypatch, served):
    monkeypatch.setattr(transfer, "RETRIES", 0)
    grow(data_paths.root / "here", offered.classes, 10)
    sources = {
        "broken": UserError("a plugin"),
        "gone": replace(offered, name="gone", folders=("gone",), address=f"{served.address}/gone.zip"),
        "hand": replace(offered, name="hand", folders=("hand",), address="", source="somewhere"),
        "here": replace(offered, name="here", folders=("here",)),
        "toy": offered,
    }

    def find(name):
        if isinstance(sources[name], UserError):
            raise sources[name]
        return sources[name]

    monkeypatch.setattr("ddbench.registry.names", lambda kind: tuple(sources))
    monkeypatch.setattr("ddbench.datasets.lookup.find_dataset", find)
    done = prepared(data_paths, "all", "--missing")
    assert done.exit_code == 1
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()[2:] if line[0] != " "}
    assert rows["broken"] == "failed a plugin"
    assert rows["gone"].startswith("failed http://127.0.0.1")
    assert rows["hand"].startswith("by hand Get it: from somewhere")
    assert rows["here"] == "there 15 training, 15 test"
    assert rows["toy"] == "prepared toy, 8 px: 15 training, 15 test images"
    assert "gone.zip cannot be downloaded" in done.stderr
    assert next(path.name for path in data_paths.shared.glob("packed-*")).startswith("packed-toy8-")
    del sources["broken"], sources["gone"]
    again = prepared(data_paths, "all", "--missing", "--size", "8")
    assert again.exit_code == 0
    assert "there" in again.stdout.splitlines()[-1]
    for words in (["toy", "--missing"], ["all", "--from", str(data_paths.root)]):
        assert prepared(data_paths, *words).exit_code == 2


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_an_archive_holds_beside_images_is_counted(tmp_path, caplog, kind):
    archive, folder = tmp_path / f"set.{kind}", tmp_path / "out"
    folder.mkdir()
    files = {"set/a/1.png": b"image", "set/a/1.xml": b"x", "__MACOSX/set/a/._1.png": b"x", "set/readme.txt": b"x"}
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as box:
            for name, data in files.items():
                box.writestr(name, data)
            link = zipfile.ZipInfo("set/a/2.png")
            link.external_attr = 0o120777 << 16
            box.writestr(link, "/etc/passwd")
    else:
        with tarfile.open(archive, "w") as box:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                box.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("set/a/2.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            box.addfile(link)
    assert archives.unpack(archive, folder, quiet=True) == 1
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")] == ["set/a/1.png"]
    for text in ("1 files of .xml", "1 files of .txt", "set/a/2.png (a link)", "1 files that are hidden"):
        assert text in caplog.text
