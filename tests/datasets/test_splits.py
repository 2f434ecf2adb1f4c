"""Splits: by ratio, by number, by lists that are published, by the user's file; each with a fingerprint of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddbench.datasets.info import DatasetError, Lists, flatten
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.name import display_name
from ddbench.datasets.rs.aid import AID
from ddbench.datasets.rs.nwpu import NWPU
from ddbench.datasets.rs.ucm import UCM
from ddbench.errors import UserError


@pytest.fixture
def tree(toy, data_paths, grow):
    return grow(data_paths.root / "Images", toy.classes, 10)


@pytest.mark.parametrize("percent", ["20", "80", "1", "99"])
def test_a_ratio_by_name(toy, data_paths, tree, percent):
    split = toy.with_split(percent).describe(data_paths)
    train = min(max(round(int(percent) / 10), 1), 9)
    assert {len(names) for names in split.train} == {train}
    assert split.rule.split()[0] == f"{int(percent)}/{100 - int(percent)}"
    assert split.fingerprint != toy.describe(data_paths).fingerprint
    assert toy.with_split(percent).name == f"toy@{percent}"


def test_smaller_ratios_are_parts_of_larger_ones(toy, data_paths, tree):
    few, many = (set(flatten(toy.with_split(percent).describe(data_paths).train)) for percent in ("20", "80"))
    assert few < many


def test_the_defaults_ratio_is_the_default():
    assert AID.with_split("50") is AID
    assert find_dataset("aid@50") is AID
    assert find_dataset("aid@20").train_fraction == 0.2
    assert NWPU.with_split("10").split_rule.startswith("10/90")
    assert NWPU.split_rule.startswith("1-600/rest")


def test_numbers_decide_by_their_value(toy, data_paths, picture):
    info = replace(toy, counts=3, numbered=600)
    for name in info.classes:
        (data_paths.root / "Images" / name).mkdir(parents=True)
        for number in ("001", "600", "0601"):
            picture(name + number, 8, 8).save(data_paths.root / "Images" / name / f"{name}_2x_{number}.png")
    split = info.describe(data_paths)
    assert split.train[1] == ("beach/beach_2x_001.png", "beach/beach_2x_600.png")
    assert split.test[1] == ("beach/beach_2x_0601.png",)


def test_files_without_a_number_are_named(toy, data_paths, picture, grow):
    info = replace(toy, counts=None, numbered=600)
    tree = grow(data_paths.root / "Images", info.classes, 2)
    picture("x", 8, 8).save(tree / "beach/shore.png")
    with pytest.raises(DatasetError, match=r"beach/shore\.png has no number"):
        info.describe(data_paths)


def write(path, rows, head="file,split"):
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


def test_a_file_of_the_users(toy, data_paths, tree, tmp_path):
    rows = [f"{c}/{c}0{i}.png,{'train' if i < 3 else 'test'}" for c in toy.classes for i in range(8)]
    info = toy.with_split(write(tmp_path / "mine.csv", rows))
    split = info.describe(data_paths)
    assert ({len(c) for c in split.train}, {len(c) for c in split.test}) == ({3}, {5})  # two of each are in neither
    assert info.name == "toy@mine.csv"
    assert split.rule == "mine.csv of the user's"
    data = info.load(data_paths, 8)
    assert (data.train.counts(), data.test.counts()) == ((3, 3, 3), (5, 5, 5))
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "mine.csv").read_bytes())  # as Excel does
    assert info.describe(data_paths) == split
    other = toy.with_split(write(tmp_path / "mine.csv", [*rows[:-1], rows[-1].replace("test", "train")]))
    assert other.describe(data_paths).fingerprint != split.fingerprint


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["beach/beach99.png,train"], r"toy has no beach/beach99\.png"),
        (["beach/beach01.png,valid"], r"the split of beach/beach01\.png is 'valid'; known: train, test"),
        (["beach/beach01.png,train", "beach/beach01.png,test"], "on both sides"),
        (["beach/beach01.png,train", "beach01.jpg,test"], "has beach01.jpg on both sides"),
        (["beach/beach01.png,train", ",test"], "has a line without a file"),
        (["beach/beach01.png,train", "beach/beach02.png,test"], "leaves no image to train on in river, forest"),
        ([], "needs a first line"),
    ],
)
def test_what_is_off_in_a_users_file_is_named(toy, data_paths, tree, tmp_path, rows, said):
    with pytest.raises(DatasetError, match=said):
        toy.with_split(write(tmp_path / "mine.csv", rows)).describe(data_paths)


def test_a_users_file_that_is_none(toy, data_paths, tree, tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.csv cannot be read"):
        toy.with_split(str(tmp_path / "gone.csv")).describe(data_paths)
    with pytest.raises(DatasetError, match="needs a first line `file,split`"):
        toy.with_split(write(tmp_path / "odd.csv", ["beach/beach01.png,train"], head="name,side")).describe(data_paths)


def test_a_stem_that_two_classes_have_needs_its_class(toy, data_paths, picture, tmp_path):
    for name in toy.classes:
        (data_paths.root / "Images" / name).mkdir(parents=True)
        for i in range(10):
            picture(f"{name}{i}", 8, 8).save(data_paths.root / "Images" / name / f"{i:04d}.png")
    with pytest.raises(DatasetError, match=r"0003\.png matches river/0003.png or beach/0003.png: write CLASS/FILE"):
        toy.with_split(write(tmp_path / "mine.csv", ["0003.png,train"])).describe(data_paths)


def test_published_lists(toy, data_paths, tree, tmp_path, served):
    """As they are published: names without folders, of another suffix, and some in a third list."""
    lines = {"train": [], "test": []}
    for i in range(10):
        lines.get({0: "valid", 1: "test"}.get(i, "train"), []).extend(f"{c}{i:02d}.jpg" for c in toy.classes)
    info = replace(toy, lists=Lists(f"{served.address}/{{side}}.txt", served.write(lines)))
    split = info.with_split("torchgeo").describe(data_paths)
    assert ({len(c) for c in split.train}, {len(c) for c in split.test}) == ({8}, {1})
    assert info.with_split("torchgeo").name == "toy@torchgeo"
    served.stop()
    assert info.with_split("torchgeo").describe(data_paths) == split  # from what was kept


def test_lists_that_were_changed_are_refused(toy, data_paths, tree, served):
    sums = served.write({"train": ["beach00.jpg"], "test": ["beach01.jpg"]})
    info = replace(toy, lists=Lists(f"{served.address}/{{side}}.txt", dict(sums, train="0" * 64)))
    with pytest.raises(DatasetError, match="It was deleted"):
        info.with_split("torchgeo").describe(data_paths)


def test_what_is_no_split_is_answered_with_what_there_is():
    with pytest.raises(UserError, match=r"ucm@60/40 is not a split .*@1 to @99 .*@torchgeo .*@FILE\.csv"):
        UCM.with_split("60/40")
    with pytest.raises(UserError, match="aid@torchgeo is not a split"):
        find_dataset("aid@torchgeo")
    with pytest.raises(UserError, match="scenes has only its own split"):
        find_dataset("scenes@20")
    with pytest.raises(UserError, match="unknown dataset 'ucn'; did you mean ucm"):
        find_dataset("ucn@20")


def test_a_folder_of_the_users_by_ratio(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree@home", ["a", "b"], 10)
    whole, parted = (find_dataset(f"folder:{tree}{end}") for end in ("", "@30"))
    assert [len(c) for c in whole.describe(data_paths).train] == [8, 8]
    assert [len(c) for c in parted.describe(data_paths).train] == [3, 3]
    assert [display_name(source.name) for source in (whole, parted)] == ["folder:tree@home", "folder:tree@home@30"]


def test_another_way_of_resizing_is_another_split(toy, data_paths, tree):
    bilinear = replace(data_paths, resize="bilinear")
    one, other = toy.describe(data_paths), toy.describe(bilinear)
    assert one.fingerprint != other.fingerprint
    assert other.rule == f"{one.rule}, resized by bilinear"
    assert (toy.load(data_paths, 5).train.images != toy.load(bilinear, 5).train.images).any()


def test_a_list_names_files_exactly_or_by_stem(tmp_path, data_paths, grow):
    """Two files of one stem, a backslash, letters in two forms of Unicode."""
    tree = grow(tmp_path / "tree", ["caf\u00e9", "pond"], 3, ".png")
    grow(tmp_path / "tree", ["pond"], 3, ".bmp")
    (tree / "pond/e\u0301tang.png").write_bytes((tree / "pond/pond00.png").read_bytes())
    train = ["cafe\u0301/caf\u00e900.png", "pond/pond00.png", "pond/\u00e9tang.jpg", "./pond/pond01.bmp"]
    test = ["caf\u00e901.png", "pond\\pond00.bmp"]
    rows = [f"{name},train" for name in train] + [f"{name},test" for name in test]
    source = find_dataset(f"folder:{tree}")
    split = source.with_split(write(tmp_path / "mine.csv", rows)).describe(data_paths)
    assert sorted(flatten(split.train)) == sorted(
        ["caf\u00e9/caf\u00e900.png", "pond/pond00.png", "pond/e\u0301tang.png", "pond/pond01.bmp"]
    )
    assert flatten(split.test) == ["caf\u00e9/caf\u00e901.png", "pond/pond00.bmp"]
    with pytest.raises(DatasetError, match=r"pond/pond02\.jpg matches .*: write CLASS/FILE with its suffix"):
        source.with_split(write(tmp_path / "mine.csv", [*rows, "pond/pond02.jpg,train"])).describe(data_paths)


def test_images_that_a_list_leaves_out_are_counted(tmp_path, data_paths, grow, caplog):
    grow(tmp_path / "tree", ["a", "b"], 4)
    rows = [f"{name}/{name}{i:02d}.png,{'train' if i else 'test'}" for name in "ab" for i in range(3)]
    source = find_dataset(f"folder:{tmp_path / 'tree'}@{write(tmp_path / 'own.csv', rows)}")
    assert source.verify(data_paths).left_out == ("a/a03.png", "b/b03.png")
    source.load(data_paths, 8)
    assert "2 images are on neither side of the split and are not used, such as a/a03.png" in caplog.text
    assert find_dataset(f"folder:{tmp_path / 'tree'}").verify(data_paths).left_out == ()


@pytest.mark.parametrize("coding", ["latin-1", "utf-16"])
def test_a_list_in_another_coding_is_said(tmp_path, data_paths, grow, coding):
    grow(tmp_path / "tree", ["caf\xe9", "b"], 2)
    (tmp_path / "own.csv").write_bytes("file,split\ncaf\xe9/caf\xe900.png,train\n".encode(coding))
    with pytest.raises(DatasetError, match=r"own\.csv is not UTF-8: save it as CSV in UTF-8"):
        find_dataset(f"folder:{tmp_path / 'tree'}@{tmp_path / 'own.csv'}").describe(data_paths)


def test_an_unknown_name_is_answered_with_a_known_one(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree", ["a", "b"], 2)
    own = write(tmp_path / "own.csv", [f"{tree}/a/a00.png,train"])
    with pytest.raises(DatasetError, match=r"has no .*a00\.png; a name is CLASS/FILE, such as a/a00\.png"):
        find_dataset(f"folder:{tree}@{own}").describe(data_paths)
