"""What is there twice: equal files, copies saved otherwise, pictures shifted; and what only looks alike to a hash."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageFilter

from ddbench.cli.main import cli
from ddbench.datasets import verification
from ddbench.datasets.source import folder_source


def scene(seed, side=96):
    """Smooth colours with edges, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.SMOOTH)


@pytest.fixture
def tree(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        for i in range(12):
            scene(100 * (label == "b") + i).save(tmp_path / "tree" / label / f"{i:02d}.png")
    return tmp_path / "tree"


def found(tree, data_paths):
    return folder_source(tree).verify(data_paths).duplicates


def names(pairs):
    return {tuple(sorted((pair.one, pair.other))) for pair in pairs}


def test_different_images_are_no_duplicates(tree, data_paths):
    assert found(tree, data_paths) == verification.Duplicates((), ())


def test_equal_files_are_found_within_and_across_classes(tree, data_paths):
    shutil.copy(tree / "a/03.png", tree / "a/20.png")
    shutil.copy(tree / "a/03.png", tree / "b/21.png")
    twice = found(tree, data_paths)
    assert names(twice.exact) == {("a/03.png", "a/20.png"), ("a/03.png", "b/21.png")}
    assert {pair.one + pair.other: pair.crossing for pair in twice.exact} == {
        "a/03.pnga/20.png": False, "a/03.pngb/21.png": True,
    }  # fmt: skip
    assert twice.near == ()


def test_leaks_are_pairs_across_the_split(tree, data_paths):
    for i in range(12):
        shutil.copy(tree / f"a/{i:02d}.png", tree / f"a/copy{i:02d}.png")
    source = folder_source(tree)
    split, pairs = source.describe(data_paths), source.verify(data_paths).duplicates.exact
    train = {name for names in split.train for name in names}
    assert len(pairs) == 12
    assert [pair.leak for pair in pairs] == [(pair.one in train) != (pair.other in train) for pair in pairs]
    assert any(pair.leak for pair in pairs)
    assert not all(pair.leak for pair in pairs)


@pytest.mark.parametrize("change", ["jpeg", "smaller", "shifted", "brighter"])
def test_copies_made_otherwise_are_near(tree, data_paths, change):
    image = scene(105)
    if change == "jpeg":
        image.save(tree / "b/20.jpg", quality=40)
    elif change == "smaller":
        image.resize((64, 64), Image.Resampling.LANCZOS).save(tree / "b/20.png")
    elif change == "shifted":
        scene(105, 100).crop((1, 1, 97, 97)).save(tree / "b/20.png")
    else:
        image.point(lambda value: min(255, int(1.1 * value))).save(tree / "b/20.png")
    twice = found(tree, data_paths)
    assert twice.exact == ()
    (pair,) = twice.near
    assert {pair.one, pair.other} == {"b/05.png", "b/20.jpg" if change == "jpeg" else "b/20.png"}
    assert 0.95 <= pair.similarity <= 1


def test_flat_images_are_not_alike(tmp_path, data_paths):
    """Water: noise around one colour, whose hashes are noise too."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "sea" / label).mkdir(parents=True)
        for i in range(60):
            pixels = np.clip(40 + rng.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "sea" / label / f"{i}.png")
    assert found(tmp_path / "sea", data_paths).near == ()


def test_close_pairs_are_those_of_a_slow_search(monkeypatch):
    monkeypatch.setattr(verification, "COLUMNS", 100)
    rng = np.random.default_rng(0)
    words = [int(w) for w in rng.integers(0, 2**63, 600, dtype=np.uint64)]
    words += [w ^ (1 << int(bit)) ^ 1 for w, bit in zip(words[::7], rng.integers(1, 64, 100), strict=False)]
    slow = {(j, i) for i in range(len(words)) for j in range(i) if (words[i] ^ words[j]).bit_count() <= 5}
    assert list(verification.close_pairs(words, 5)) == sorted(slow)
    assert len(slow) >= 86


def test_verify_says_it(tree, data_paths):
    shutil.copy(tree / "a/03.png", tree / "b/21.png")
    words = ["--shared", data_paths.shared, "-q", "data", "verify", f"folder:{tree}"]
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "equal files: 1 pairs, " in done.stdout
    assert "1 across classes" in done.stdout
    assert "a/03.png and b/21.png: " in done.stdout
    assert "alike: 0 pairs" in done.stdout
