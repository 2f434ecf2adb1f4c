"""Every dataset in its official layout, and in those that copies make of it: found, counted, split alike."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ddbench.datasets.download import fetch
from ddbench.datasets.folders import normalised_name
from ddbench.datasets.info import DataPaths, DatasetError, MissingDataError
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.rs.ucm import UCM
from ddbench.datasets.source import folder_source
from ddbench.registry import names

SOURCES = [find_dataset(name) for name in names("datasets") if name not in ("scenes", "cifar10")]
BY_NAME = {source.name: source for source in SOURCES}
KNOWN = {
    "ucm": (21, 2100), "aid": (30, 10_000), "nwpu": (45, 31_500), "eurosat": (10, 27_000), "patternnet": (38, 30_400),
    "whu-rs19": (19, 1005), "rsscn7": (7, 2800), "siri-whu": (12, 2400), "optimal31": (31, 1860),
    "rsi-cb256": (35, 24_747), "clrs": (25, 15_000), "mlrsnet": (46, 109_161),
}  # fmt: skip


TOLD = {
    "aid": "7a362d82b837", "clrs": "546870d5dd7c", "eurosat": "d0eac52b8afb", "mlrsnet": "b4faf4b6072e",
    "nwpu": "df2fb0eaa03a", "optimal31": "280e152b6976", "patternnet": "beae8580004b", "rsi-cb256": "48f5ea3ddde2",
    "rsscn7": "eeb2bb3cbbe4", "siri-whu": "a4134e1bb8da", "ucm": "babe260d8084", "whu-rs19": "97df88e36421",
}  # fmt: skip


FILES = {
    "ucm": "{c}{i:02d}.tif", "aid": "{low}_{n}.jpg", "nwpu": "{c}_{k:03d}.jpg", "eurosat": "{c}_{n}.jpg",
    "patternnet": "{bare}{n:03d}.jpg", "whu-rs19": "{c}_{n:02d}.jpg", "rsscn7": "{c0}{n:03d}.jpg",
    "siri-whu": "{n:04d}.tif", "optimal31": "{c}_{n}.jpg", "rsi-cb256": "{c}({n}).tif",
    "clrs": "{c}_{n}_Level1_0.84m.tif", "mlrsnet": "{c}_{n:05d}.jpg",
}  # fmt: skip


FEW = 4
NUMBERED = (1, 600, 601, 700)  # of nwpu, two on each side


def small(source):
    """The same facts of a dataset of four images per class."""
    return replace(source, counts=FEW, total=0)


def write(picture, folder, source, called=lambda name: name):
    """Four images of every class as the release names them; `called` is what becomes of a folder's name."""
    for c in source.classes:
        where = folder / called(c)
        where.mkdir(parents=True)
        for i, k in zip(range(FEW), NUMBERED, strict=True):
            words = {"c": c, "low": c.lower(), "bare": c.replace("_", ""), "c0": c[0], "i": i, "n": i + 1, "k": k}
            name = FILES[source.name].format(**words)
            picture(f"{c}{i}", 9, 9).save(where / name)
    return folder


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_facts_are_consistent(source):
    classes, images = KNOWN[source.name]
    assert len(source.classes) == len(source.readable) == len(set(source.readable)) == classes
    assert list(source.classes) == sorted(source.classes)
    assert (source.total or sum(source.expected)) == images
    assert len({normalised_name(name) for name in source.classes}) == classes
    assert {label for _, label in source.also} <= set(source.classes)
    assert source.address or source.source
    assert source.licence
    assert "doi:" in source.citation
    assert source.checksum.partition(" ")[0] in ("", "MD5", "SHA-256")


def test_every_dataset_has_facts():
    assert set(KNOWN) == set(BY_NAME)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("where", [0, -1, "named"])
def test_the_official_layout_is_found_split_and_packed(source, where, data_paths, picture):
    info = small(source)
    folder = info.name if where == "named" else info.folders[where]
    write(picture, data_paths.root / folder, info)
    split = info.describe(data_paths)
    sides = (2, 2) if info.numbered or info.train_fraction == 0.5 else (3, 1)
    assert ({len(c) for c in split.train}, {len(c) for c in split.test}) == ({sides[0]}, {sides[1]})
    data = info.load(data_paths, 8)
    assert data.train.classes == info.classes
    assert data.train.counts() == (sides[0],) * len(info.classes)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize(
    "called",
    [
        str.lower,
        lambda name: name.replace("_", " ").replace("-", " "),
        lambda name: f"group {len(name) % 3}/{name.upper()}",
        lambda name: f"deep/inside/{name}",
    ],
    ids=["lower case", "spaces", "nested", "deep"],
)
def test_copies_are_split_as_the_official_layout_is(source, called, data_paths, picture):
    info = small(source)
    write(picture, data_paths.root / info.folders[0], info)
    official = info.describe(data_paths)
    shutil.rmtree(data_paths.root / info.folders[0].split("/")[0])
    write(picture, data_paths.root / info.name, info, called)
    copied = info.describe(data_paths)
    assert copied.fingerprint == official.fingerprint
    assert copied == official


def test_rsscn7_by_its_other_names(data_paths, picture):
    info = small(BY_NAME["rsscn7"])
    others = {label: name for name, label in info.also}  # the last of them, such as grass_land
    write(picture, data_paths.root / "RSSCN7", info, others.__getitem__)
    assert info.describe(data_paths).train[0][0].startswith("aGrass/")


def test_a_copy_with_a_folder_for_each_side_is_one_dataset(toy, data_paths, grow):
    whole = grow(data_paths.root / "Images", toy.classes, 10)
    expected = toy.describe(data_paths)
    for i, path in enumerate(sorted(whole.rglob("*.png"))):
        folder = data_paths.root / "toy" / ("train" if i % 2 else "test") / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    shutil.rmtree(whole)
    assert toy.describe(data_paths) == expected


def test_one_file_in_two_folders_of_a_class_is_an_error(toy, data_paths, grow):
    grow(data_paths.root / "toy/a", toy.classes, 10)
    grow(data_paths.root / "toy/b", ["beach"], 1)
    with pytest.raises(DatasetError, match=r"toy/b/beach/beach00.png have the same name beach/beach00.png"):
        toy.describe(data_paths)


def test_folders_that_hold_no_images_are_looked_into_and_others_are_too_many(toy, data_paths, grow):
    grow(data_paths.root / "toy/Images", toy.classes, 10)
    (data_paths.root / "toy/Images/papers").mkdir()
    toy.describe(data_paths)
    grow(data_paths.root / "toy/Images", ["swamp"], 1)
    with pytest.raises(DatasetError, match=r"1 unknown \(swamp\)"):
        toy.describe(data_paths)


def test_names_that_differ_by_case_alone_are_classes_of_their_own(tmp_path, data_paths, grow):
    """Of a tree of the user's; where nothing is known every folder is a class."""
    tree = grow(tmp_path / "tree", ["bare land", "bare_land", "BareLand"], 3)
    assert folder_source(tree).classes == ("BareLand", "bare land", "bare_land")
    assert [len(names) for names in folder_source(tree).describe(data_paths).train] == [2, 2, 2]


def test_a_wrong_total_is_an_error(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    with pytest.raises(DatasetError, match=r"toy has 31 images, .* has 30\.\nUnpack"):
        replace(toy, counts=None, total=31).describe(data_paths)


@pytest.mark.parametrize("kind", ["nowhere", "loop", "folder"])
def test_what_is_named_like_an_image_and_is_none_is_an_error(toy, data_paths, grow, kind):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    odd = tree / "beach/beach99.png"
    odd.mkdir() if kind == "folder" else odd.symlink_to(odd if kind == "loop" else data_paths.root / "gone.png")
    with pytest.raises(DatasetError, match=r"beach99\.png(:| is)"):
        toy.describe(data_paths)


def test_a_link_to_an_image_is_that_image(toy, data_paths, grow, tmp_path):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    before = toy.load(data_paths, 8).train.images.clone()
    (tree / "beach/beach03.png").rename(tmp_path / "elsewhere.png")
    (tree / "beach/beach03.png").symlink_to(tmp_path / "elsewhere.png")
    assert (toy.load(data_paths, 8).train.images == before).all()


def test_images_in_a_folder_inside_a_class_are_an_error(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree", ["a", "b"], 4)
    (tree / "a/.thumbnails").mkdir()
    (tree / "a/a00.png").rename(tree / "a/.thumbnails/a00.png")
    (tree / "b/notes").mkdir()
    assert [len(names) for names in folder_source(tree).describe(data_paths).train] == [2, 3]
    grow(tree / "b/notes", ["more"], 1)
    with pytest.raises(DatasetError, match=r"b/notes is inside a class folder and has images \(more00\.png\)"):
        folder_source(tree).describe(data_paths)


def test_a_very_long_folder(tmp_path, data_paths, grow):
    tree = grow(tmp_path / ("x" * 250), ["a", "b"], 4)
    assert folder_source(tree).load(data_paths, 8).train.counts() == (3, 3)


def test_long_and_foreign_names(tmp_path, data_paths, picture):
    for label in ("пляж", "森"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        for i in range(3):
            picture(f"{label}{i}", 8, 8).save(tmp_path / "tree" / label / f"{'å' * 100}{i}.png")
    data = folder_source(tmp_path / "tree").load(data_paths, 8)
    assert data.train.classes == ("пляж", "森")
    assert data.train.counts() == (2, 2)


def archived(tree, path):
    with zipfile.ZipFile(path, "w") as box:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            box.write(file, file.relative_to(tree))
    return path


@pytest.fixture
def offered(data_paths, picture, tmp_path, served, request):
    """A dataset's release with four images of a class, at an address on this machine, and where it is served from."""
    info = small(BY_NAME[request.param])
    write(picture, tmp_path / "release" / info.folders[0], info)
    path = archived(tmp_path / "release", served.folder / "release.zip")
    checksum = f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return replace(info, address=f"{served.address}/release.zip", archive="", checksum=checksum), path


ALL = pytest.mark.parametrize("offered", sorted(KNOWN), indirect=True)


@ALL
def test_downloaded_verified_unpacked_packed(offered, data_paths):
    info, _ = offered
    fetch(info, data_paths)
    data = info.load(data_paths, 8)
    counts = [a + b for a, b in zip(data.train.counts(), data.test.counts(), strict=True)]
    assert counts == [FEW] * len(info.classes)
    assert info.verify(data_paths).ok


@ALL
def test_a_wrong_checksum_leaves_nothing(offered, data_paths):
    info, _ = offered
    with pytest.raises(DatasetError, match="It was deleted"):
        fetch(replace(info, checksum=f"MD5 {'0' * 32}"), data_paths)
    with pytest.raises(MissingDataError):
        info.describe(data_paths)


@ALL
def test_a_release_that_lacks_a_class_is_not_kept(offered, data_paths, tmp_path):
    info, path = offered
    shutil.rmtree(tmp_path / "release" / info.folders[0] / info.classes[-1])
    archived(tmp_path / "release", path)
    with pytest.raises(DatasetError, match=f"1 missing \\({re.escape(info.classes[-1])}\\)"):
        fetch(info, data_paths, path)
    with pytest.raises(MissingDataError):
        info.describe(data_paths)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_classes_and_counts_are_those_of_the_literature(source):
    """By their SHA-256, taken once from lists that were compared with the releases' papers and pages."""
    told = json.dumps([source.classes, source.expected or source.total])
    assert hashlib.sha256(told.encode()).hexdigest()[:12] == TOLD[source.name]


def test_words_of_uc_merced_are_those_of_dpds_release():
    words = dict(zip(UCM.classes, UCM.readable, strict=True))
    assert words["agricultural"] == "agricultural area"
    assert [name for name in words.values() if name.endswith(" residential area")] == [
        "dense residential area", "medium residential area", "sparse residential area",
    ]  # fmt: skip


needs_data = pytest.mark.skipif(
    not os.environ.get("DDBENCH_DATA"), reason="DDBENCH_DATA does not name the folder of the real data"
)


@pytest.fixture
def real(data_paths):
    return replace(data_paths, root=Path(os.environ["DDBENCH_DATA"]))


@needs_data
@pytest.mark.real
@pytest.mark.parametrize("source", [UCM, EUROSAT], ids=lambda source: source.name)
def test_every_image_can_be_read(source, real):
    report = source.verify(real)
    assert report.ok, report.unreadable
    assert tuple(report.counts.values()) == source.expected
    assert max(report.sizes, key=report.sizes.get) == (source.pixels, source.pixels)
    odd = sum(report.sizes.values()) - report.sizes[(source.pixels, source.pixels)]
    assert odd == {"ucm": 44, "eurosat": 0}[source.name]


@needs_data
@pytest.mark.real
@pytest.mark.parametrize(("source", "train", "test"), [(UCM, 1050, 1050), (EUROSAT, 21600, 5400)])
def test_load(source, train, test, real: DataPaths):
    dataset = source.load(real, 64)
    assert dataset.train.images.shape == (train, 3, 64, 64)
    assert dataset.test.images.shape == (test, 3, 64, 64)
    start = time.process_time()
    source.load(real, 64)
    assert time.process_time() - start < 0.5  # 0.15 s measured; wall time depends on who else computes
