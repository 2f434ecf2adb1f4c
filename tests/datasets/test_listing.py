"""Finding, counting and splitting, on trees of real files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddbench.datasets.info import DataPaths, DatasetError
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.rs.ucm import UCM
from ddbench.datasets.source import folder_source, split_words
from ddbench.errors import UserError


def naive_split(tree, fraction):
    """The documented rule, written again: (train names, test names) of a whole tree."""
    train, test = [], []
    for folder in sorted(p for p in tree.iterdir() if p.is_dir()):
        ranked = sorted(folder.iterdir(), key=lambda f: hashlib.sha256(f"0/{f.parent.name}/{f.stem}".encode()).digest())
        cut = round(len(ranked) * fraction)
        train += [f"{folder.name}/{f.name}" for f in ranked[:cut]]
        test += [f"{folder.name}/{f.name}" for f in ranked[cut:]]
    return train, test


def flat(side):
    return [name for names in side for name in names]


def test_the_split_is_the_documented_rule(toy, data_paths, grow):
    tree = grow(data_paths.root / "toy/Images", toy.classes, 10)
    split = toy.describe(data_paths)
    train, test = naive_split(tree, 0.5)
    lines = sorted([f"train\t{name}" for name in train] + [f"test\t{name}" for name in test])
    assert sorted(flat(split.train)) == sorted(train)
    assert sorted(flat(split.test)) == sorted(test)
    assert split.fingerprint == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert [{name.split("/")[0] for name in names} for names in split.train] == [{"river"}, {"beach"}, {"forest"}]
    assert split.rule == "50/50 of each class by SHA-256 of class and file name"


def test_the_whole_official_layout_of_ucm(data_paths, grow):
    grow(data_paths.root / "UCMerced_LandUse/Images", UCM.classes, 100, ".tif", side=4)
    split = UCM.describe(data_paths)
    assert [len(names) for names in split.train] == [50] * 21
    assert [len(names) for names in split.test] == [50] * 21
    assert not set(flat(split.train)) & set(flat(split.test))
    assert split.train[3][0].startswith("beach/beach")


@pytest.mark.parametrize("folder", EUROSAT.folders)
def test_every_place_where_eurosat_may_lie(folder, data_paths, grow):
    few = replace(EUROSAT, counts=5)
    grow(data_paths.root / folder, EUROSAT.classes, 5, ".jpg")
    assert [len(names) for names in few.describe(data_paths).train] == [4] * 10


def test_facts_are_consistent():
    for info in (UCM, EUROSAT):
        assert len(info.classes) == len(info.readable) == len(info.expected) == len(set(info.readable))
        assert list(info.classes) == sorted(info.classes)
        assert dict(info.card())["classes"].startswith(f"{len(info.classes)}: ")
    assert (sum(UCM.expected), sum(EUROSAT.expected)) == (2100, 27000)


def test_a_class_keeps_its_split_when_others_change(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    before = folder_source(tree).describe(data_paths)
    grow(tree, ["river"], 40)
    grow(tree, ["airport"], 7)
    after = folder_source(tree).describe(data_paths)
    assert before.train[:2] == after.train[1:3]  # beach and forest, now after airport
    assert before.fingerprint != after.fingerprint


def test_tiff_and_jpeg_copies_split_alike(toy, data_paths, grow):
    grow(data_paths.root / "toy/Images", toy.classes, 10, ".tif")
    tiff = toy.describe(data_paths)
    grow(data_paths.shared / "toy/Images", toy.classes, 10, ".jpg")
    jpeg = toy.describe(DataPaths(data_paths.shared, data_paths.shared))
    assert [Path(name).stem for name in flat(tiff.train)] == [Path(name).stem for name in flat(jpeg.train)]


@pytest.mark.parametrize(("count", "train"), [(2, 1), (3, 2), (5, 4), (10, 8), (100, 80)])
def test_both_sides_have_an_image(tmp_path, data_paths, grow, count, train):
    split = folder_source(grow(tmp_path / "tree", ["a", "b"], count, side=1)).describe(data_paths)
    assert [len(names) for names in split.train] == [train] * 2
    assert [len(names) for names in split.test] == [count - train] * 2


def test_what_is_not_an_image_is_ignored(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    clean = toy.describe(data_paths)
    for name in ("Thumbs.db", ".DS_Store", "._river00.png", "readme.txt"):
        (tree / "river" / name).write_bytes(b"nothing")
    (tree / ".cache").mkdir()
    (tree / "__MACOSX").mkdir()
    (tree / "list.csv").write_text("")
    assert toy.describe(data_paths) == clean


def test_missing_data_says_what_where_and_how(toy, data_paths):
    (data_paths.root / "Images").mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        toy.describe(data_paths)
    text = str(caught.value)
    for folder, found in (("toy/Images", "no such folder"), ("Images", "no class folder")):
        assert f"{data_paths.root / folder}  ({found})" in text
    for part in ("toy (Toy Land Use)", "https://example.org/toy.zip", "MD5 0123", "toy/Images/river", "DDBENCH_DATA"):
        assert part in text
    assert isinstance(caught.value, UserError)


def test_no_data_root_says_how_to_give_one(toy, tmp_path):
    with pytest.raises(DatasetError, match="--data-root"):
        toy.describe(DataPaths(None, tmp_path))


def test_missing_and_extra_classes_are_named(toy, data_paths, grow):
    grow(data_paths.root / "Images", ["river", "beach", "woods", "lake"], 10)
    with pytest.raises(DatasetError, match=r"has 4: 1 missing \(forest\); 2 unknown \(lake, woods\)"):
        toy.describe(data_paths)


def test_an_empty_class_is_named(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    for file in (data_paths.root / "Images/beach").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match=r"no image in 1 class folder.*: beach"):
        toy.describe(data_paths)


def test_wrong_counts_are_named(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    (tree / "beach/beach03.png").unlink()
    grow(tree, ["forest"], 12)
    wrong = r"has 31\. Wrong counts: beach 9 \(expected 10\), forest 12 \(expected 10\)"
    with pytest.raises(DatasetError, match=wrong):
        toy.describe(data_paths)


def test_a_class_of_one_image_cannot_be_split(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree", ["a", "b"], 3)
    grow(tree, ["c"], 1)
    with pytest.raises(DatasetError, match="Classes with one: c"):
        folder_source(tree).describe(data_paths)


def test_folder_source_reads_the_tree(tmp_path, grow):
    tree = grow(tmp_path / "my set", ["SparseResidential", "parking_lot"], 3, side=20)
    source = folder_source(tree)
    assert source.classes == ("SparseResidential", "parking_lot")
    assert source.readable == ("sparse residential", "parking lot")
    assert (source.name, source.slug, source.pixels) == (f"folder:{tree}", "folder-my-set", 20)


def test_folder_source_needs_classes(tmp_path):
    with pytest.raises(DatasetError, match="cannot list"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "only").mkdir()
    with pytest.raises(DatasetError, match="at least two"):
        folder_source(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError, match="no image"):
        folder_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "read"),
    [("airportRunway", "airport runway"), ("bare-land", "bare land"), ("forest", "forest"), ("RVPark", "rv park")],
)
def test_words(name, read):
    assert split_words(name) == read


def test_describing_never_imports_torch(tmp_path, grow):
    tree = grow(tmp_path / "tree", ["a", "b"], 3)
    code = f"""
import sys
from pathlib import Path
from ddbench.datasets.info import DataPaths
from ddbench.datasets.source import folder_source
from ddbench.datasets.rs.ucm import UCM
from ddbench.datasets.scenes.source import SCENES
data_paths = DataPaths(None, Path({str(tmp_path)!r}), quiet=True)
for source in (folder_source({str(tree)!r}), SCENES):
    source.describe(data_paths), source.card()
folder_source({str(tree)!r}).verify(data_paths), UCM.card()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def sided(tmp_path, grow):
    """A folder with train/, test/ and val/: four, two and one image of each of two classes, their names repeated."""
    tree = tmp_path / "sided"
    for side, count in (("train", 4), ("test", 2), ("val", 1)):
        grow(tree / side, ["cat", "dog"], count)
    return tree


def test_a_tree_of_two_sides_is_split_as_it_is(sided, data_paths):
    source = folder_source(sided)
    assert source.classes == ("cat", "dog")
    split = source.describe(data_paths)
    assert split.rule == "train/test folders"
    assert split.train[0] == tuple(f"cat/train/cat{i:02d}.png" for i in range(4))
    assert split.test == (("cat/test/cat00.png", "cat/test/cat01.png"), ("dog/test/dog00.png", "dog/test/dog01.png"))
    data = source.load(data_paths, 8)
    assert (data.train.counts(), data.test.counts()) == ((4, 4), (2, 2))
    assert data.train.names[0] == "cat/train/cat00.png"


def test_the_fingerprint_tells_which_side_an_image_is_on(sided, data_paths):
    before = folder_source(sided).describe(data_paths).fingerprint
    (sided / "train/cat/cat03.png").rename(sided / "test/cat/cat03.png")
    assert folder_source(sided).describe(data_paths).fingerprint != before


@pytest.mark.parametrize(("train", "test"), [("Training", "Validation"), ("TRAIN", "valid"), ("train", "testing")])
def test_the_folders_of_the_sides_by_their_other_names(tmp_path, data_paths, grow, train, test):
    grow(tmp_path / "tree" / train, ["cat", "dog"], 4)
    grow(tmp_path / "tree" / test, ["cat", "dog"], 2)
    split = folder_source(tmp_path / "tree").describe(data_paths)
    assert [len(names) for names in split.train + split.test] == [4, 4, 2, 2]
    assert split.test[0][0] == "cat/test/cat00.png"


def test_a_ratio_mixes_the_two_sides(sided, data_paths):
    half = folder_source(sided).with_split("50").describe(data_paths)
    assert [len(names) for names in half.train + half.test] == [3] * 4
    assert half.rule.startswith("50/50")


def test_a_class_on_one_side_alone_is_an_error(sided, data_paths, grow):
    grow(sided / "train", ["emu"], 2)
    with pytest.raises(DatasetError, match="no image to test on in emu"):
        folder_source(sided).describe(data_paths)
    grow(sided / "test", ["emu", "fox"], 2)
    with pytest.raises(DatasetError, match=r"1 unknown \(fox\)"):
        folder_source(sided).describe(data_paths)


def test_classes_called_train_and_test_are_classes(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "rail", ["train", "test"], 4)
    source = folder_source(tree)
    assert (source.classes, source.sides) == (("test", "train"), ())
    assert source.describe(data_paths).rule.startswith("80/20")
