"""Folders of anybody's images: soft labels by name, upright images, leftovers of archives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ddbench.errors import UserError
from ddbench.runner.external_folder import read_folder
from ddbench.store import distilled_set
from ddbench.store.distilled_set import Pictures

CLASSES = ("barn", "pond", "road")
SOFT = "soft_labels.safetensors"


def write(folder, count=2):
    """Images 0.png, 1.png, ... of each class, each of one grey value, and their soft labels in the order of numbers."""
    soft = []
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((8, 8, 3), 20 * number + label, np.uint8)).save(folder / name / f"{number}.png")
            sure = 0.9 - number / 100
            soft.append([sure if column == label else (1 - sure) / 2 for column in range(3)])
    return np.array(soft, np.float32)


def test_soft_labels_in_the_documented_order_are_taken(tmp_path, caplog):
    soft = write(tmp_path / "set")
    save_file({"soft_labels": soft}, tmp_path / "set" / SOFT)
    np.testing.assert_array_equal(read_folder(tmp_path / "set", CLASSES, 8).soft, soft)
    assert caplog.text == ""


def test_named_rows_and_columns_are_put_in_order(tmp_path):
    soft = write(tmp_path / "set", 12)
    files = [f"{name}/{number}.png" for name in CLASSES for number in range(12)]
    names = {"files": json.dumps(files), "classes": json.dumps(["road", "barn", "pond"])}
    save_file({"soft_labels": np.ascontiguousarray(soft[:, [2, 0, 1]])}, tmp_path / "set" / SOFT, names)
    pictures = read_folder(tmp_path / "set", CLASSES, 8)
    numbers = (pictures.images[:, 0, 0, 0].astype(int) - pictures.labels) // 20
    np.testing.assert_array_equal(pictures.soft, soft[pictures.labels * 12 + numbers])
    assert numbers[:3].tolist() == [0, 1, 10]


def test_rows_without_names_are_refused_where_two_orders_are_usual(tmp_path):
    save_file({"soft_labels": write(tmp_path / "set", 12)}, tmp_path / "set" / SOFT)
    with pytest.raises(UserError, match=r"does not say which row belongs to which file(?s:.)*leading zeros"):
        read_folder(tmp_path / "set", CLASSES, 8)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("classes", '["barn", "pond", "lake"]', "names other classes .* lacks road; has lake"),
        ("files", '["barn/0.png"]', "names other files"),
        ("files", '["barn/0.png", "barn/0.png", "pond/0.png", "pond/1.png", "road/0.png", "road/1.png"]', "barn/1.png"),
        ("files", "{", "no JSON list of names"),
        ("classes", "[1, 2, 3]", "no JSON list of names"),
    ],
)
def test_other_names_are_refused(tmp_path, kind, text, said):
    save_file({"soft_labels": write(tmp_path / "set")}, tmp_path / "set" / SOFT, {kind: text})
    with pytest.raises(UserError, match=said):
        read_folder(tmp_path / "set", CLASSES, 8)


def test_columns_in_another_order_are_warned_of(tmp_path, caplog):
    soft = write(tmp_path / "set")
    save_file({"soft_labels": np.ascontiguousarray(soft[:, ::-1])}, tmp_path / "set" / SOFT)
    read_folder(tmp_path / "set", CLASSES, 8)
    assert "contradict the folders of 2 classes (barn as road, road as barn)" in caplog.text


@pytest.mark.parametrize("value", [-0.1, np.nan, 0.3])
def test_labels_that_are_no_probabilities_are_refused(tmp_path, value):
    soft = write(tmp_path / "set")
    soft[1, 1] = value
    save_file({"soft_labels": soft}, tmp_path / "set" / SOFT)
    with pytest.raises(UserError, match="row 1 of the soft labels is no probabilities"):
        read_folder(tmp_path / "set", CLASSES, 8)


def test_a_stored_set_names_its_rows_and_columns(tmp_path):
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    soft = np.array([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.4, 0.6]], np.float32)
    distilled_set.write(tmp_path, Pictures(images, np.array([0, 0, 1, 1]), ("pond", "barn"), soft))
    again = read_folder(tmp_path, ("barn", "pond"), 8)  # another order of the classes
    np.testing.assert_array_equal(again.images[:, 0, 0, 0], [2, 3, 0, 1])
    np.testing.assert_array_equal(again.soft, soft[[2, 3, 0, 1]][:, ::-1])
    np.testing.assert_array_equal(distilled_set.read(tmp_path).soft, soft)


def test_images_are_upright_and_leftovers_of_macos_no_class(tmp_path):
    write(tmp_path / "set", 1)
    (tmp_path / "set" / "__MACOSX").mkdir()
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "set" / "barn" / "0.png").unlink()
    image.save(tmp_path / "set" / "barn" / "0.jpg", quality=100, exif=exif)
    read = read_folder(tmp_path / "set", CLASSES, 8).images[0]
    assert read[:, 5:].min() > 200
    assert read[:, :3].max() < 50


@pytest.mark.parametrize(
    "text", ["[]", '{"learning_rate": "fast"}', '{"learning_rate": -1}', '{"learning_rate": 1e999}']
)
def test_a_learning_rate_that_is_none_is_refused(tmp_path, text):
    write(tmp_path / "set")
    (tmp_path / "set/manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: its learning_rate is no number above 0"):
        read_folder(tmp_path / "set", CLASSES, 8)


@pytest.mark.parametrize("name", ["soft_labels.npy", "soft_label.safetensors", "barn/5.mpo", "pond/Thumbs.db"])
def test_files_that_are_not_read_are_said(tmp_path, caplog, name):
    write(tmp_path / "set")
    (tmp_path / "set" / name).write_bytes(b"x")
    read_folder(tmp_path / "set", CLASSES, 8)
    assert "files that are not read: 1 files of" in caplog.text
    assert f"such as {name}" in caplog.text


def test_images_deeper_in_a_class_are_refused(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set/barn/more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "set/barn/more/0.png")
    with pytest.raises(UserError, match=r"barn/more is inside a class folder and has images \(0\.png\)"):
        read_folder(tmp_path / "set", CLASSES, 8)


def test_soft_labels_that_favour_no_class_contradict_none(tmp_path, caplog):
    write(tmp_path / "set")
    save_file({"soft_labels": np.full((6, 3), 1 / 3, np.float32)}, tmp_path / "set" / SOFT)
    read_folder(tmp_path / "set", CLASSES, 8)
    assert caplog.text == ""


def test_a_pointer_in_the_place_of_soft_labels_is_named(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set" / SOFT).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UserError, match=r"no soft labels \(it is a pointer of git-lfs"):
        read_folder(tmp_path / "set", CLASSES, 8)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_what_a_set_carries_is_read_as_float32(tmp_path, kind):
    write(tmp_path / "set", 1)
    save_file({"float_images": np.full((3, 3, 8, 8), 0.5, kind)}, tmp_path / "set/float_images.safetensors")
    whitening = {"mean": np.zeros((3, 8, 8), kind), "matrix": np.eye(192, dtype=kind)}
    save_file(whitening, tmp_path / "set/whitening.safetensors")
    pictures = read_folder(tmp_path / "set", CLASSES, 8)
    assert {array.dtype for array in (pictures.floats, *pictures.whitening.values())} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(pictures.whitening["matrix"], np.eye(192))


@pytest.mark.parametrize("name", ["float_images", "whitening"])
def test_what_a_set_carries_is_finite(tmp_path, name):
    write(tmp_path / "set", 1)
    wrong = np.full((3, 3, 8, 8), np.nan, np.float32)
    whitening = {"mean": wrong[0], "matrix": np.eye(192, dtype=np.float32)}
    save_file({name: wrong} if name == "float_images" else whitening, tmp_path / f"set/{name}.safetensors")
    with pytest.raises(UserError, match=rf"{name}\.safetensors has values that are not finite"):
        read_folder(tmp_path / "set", CLASSES, 8)
