"""hf:OWNER/NAME on sets that the tests write: the library reads them as the hub's; only the hub does not answer."""

from __future__ import annotations

import io

import datasets
import pytest

from ddbench.datasets import hub_images, huggingface
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.name import display_name
from ddbench.errors import UserError

NAMES = ["Bare Land", "river/lake"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface, "_revision", lambda repo: ("5" * 40, "cc-by-4.0"))
    datasets.disable_progress_bars()
    return tmp_path


def write(folder, picture, parts, label_of=lambda i: i % 2, **features):
    """A set of ten images of each class in each part."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)} | features
    for part in parts:
        rows = {"image": [], "label": []}
        for i in range(20):
            out = io.BytesIO()
            picture(f"{part}{i}", 12, 12).save(out, "JPEG" if i % 3 else "PNG")
            rows["image"].append({"bytes": out.getvalue(), "path": None})
            rows["label"].append(label_of(i))
        (folder / "data").mkdir(parents=True, exist_ok=True)
        kept = {name: kind for name, kind in kinds.items() if name in rows}
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(kept))
        made.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")


def test_its_own_sides_are_the_split(here, data_paths, picture):
    write(here / "me/scenes", picture, ["train", "test", "validation"])
    source = find_dataset("hf:me/scenes")
    assert source.classes == ("Bare Land", "river-lake")
    assert source.readable == ("bare land", "river/lake")
    split, data = source.describe(data_paths), source.load(data_paths, 12)
    assert (data.train.counts(), data.test.counts()) == ((10, 10), (10, 10))
    assert {name.split("/")[1].split("-")[0] for names in split.train for name in names} == {"train"}
    assert {name.split("/")[1].split("-")[0] for names in split.test for name in names} == {"test"}
    assert split.rule == f"sides.csv of the hub's, revision {'5' * 40}"
    assert display_name(source.name) == "hf:me/scenes"


def test_files_are_kept_as_they_are(here, picture):
    write(here / "me/scenes", picture, ["train"])
    assert find_dataset("hf:me/scenes").pixels == 12
    out = io.BytesIO()
    picture("train2", 12, 12).save(out, "JPEG")
    images = here / "home/ddbench/me--scenes/images"
    assert (images / "Bare Land/train-000002.jpg").read_bytes() == out.getvalue()
    assert (images / "river-lake/train-000003.png").is_file()


def test_one_split_is_parted(here, data_paths, picture):
    write(here / "me/scenes", picture, ["train"])
    source = find_dataset("hf:me/scenes")
    assert [len(names) for names in source.describe(data_paths).train] == [8, 8]
    assert source.split_rule.startswith("80/20 of each class")
    half = find_dataset("hf:me/scenes@50")
    assert [len(names) for names in half.describe(data_paths).train] == [5, 5]


@pytest.mark.parametrize("bare", [-1, None])
def test_images_without_a_class_are_left_out_and_said(here, data_paths, picture, caplog, bare):
    write(here / "me/scenes", picture, ["train"])
    write(here / "me/scenes", picture, ["test"], label_of=lambda i: bare)
    source = find_dataset("hf:me/scenes")
    assert [len(a) + len(b) for a, b in zip(*sides(source, data_paths), strict=True)] == [10, 10]
    assert "hf:me/scenes: 20 images of the split test have no class and are omitted" in caplog.text
    assert source.split_rule.startswith("80/20")


def sides(source, data_paths):
    split = source.describe(data_paths)
    return split.train, split.test


def test_a_ratio_is_a_ratio_where_the_set_has_sides(here, data_paths, picture):
    write(here / "me/scenes", picture, ["train", "test"])
    train, test = sides(find_dataset("hf:me/scenes@80"), data_paths)
    assert ([len(c) for c in train], [len(c) for c in test]) == ([16, 16], [4, 4])
    assert {name.split("/")[1].split("-")[0] for names in train for name in names} == {"train", "test"}


def test_a_set_that_cannot_be_loaded_is_said(here, monkeypatch):
    (here / "me/scenes").mkdir(parents=True)
    with pytest.raises(UserError, match="hf:me/scenes at revision 55555555 cannot be loaded: "):
        find_dataset("hf:me/scenes")


def test_it_is_got_once(here, picture, monkeypatch):
    write(here / "me/scenes", picture, ["train"])
    find_dataset("hf:me/scenes")
    monkeypatch.setattr(huggingface, "_export", lambda *_: pytest.fail("it was there"))
    find_dataset("hf:me/scenes")


def test_killed_while_writing_and_run_again(here, picture, monkeypatch):
    write(here / "me/scenes", picture, ["train", "test"])
    original, written = hub_images._suffix, []

    def killed(data):
        written.append(data)
        if len(written) > 25:
            raise KeyboardInterrupt
        return original(data)

    monkeypatch.setattr(hub_images, "_suffix", killed)
    with pytest.raises(KeyboardInterrupt):
        find_dataset("hf:me/scenes")
    assert not (here / "home/ddbench/me--scenes").exists()
    assert len(list((here / "home/ddbench").rglob("train-*"))) == 20  # half of it is there, under another name
    monkeypatch.setattr(hub_images, "_suffix", original)
    find_dataset("hf:me/scenes")
    images = here / "home/ddbench/me--scenes/images"
    assert len(list(images.rglob("*-*.jpg")) + list(images.rglob("*-*.png"))) == 40
    assert not list((here / "home/ddbench").glob("*.partial"))


def test_what_is_no_set_of_images_with_classes_is_said(here):
    (here / "me/words/data").mkdir(parents=True)
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(here / "me/words/data/train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"hf:me/words needs .* Image .* ClassLabel .*; it has text \(Value\)"):
        find_dataset("hf:me/words")


def test_a_row_that_names_a_file_of_this_machine_is_refused(here, tmp_path_factory, picture):
    """A hub set may hold paths in place of bytes; only its own files and the library's cache are read."""
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    picture("secret", 12, 12).save(secret)
    (here / "me/paths/data").mkdir(parents=True)
    picture("own", 12, 12).save(here / "me/paths/own.png")
    rows = [{"bytes": None, "path": str(path)} for path in (here / "me/paths/own.png", secret)] * 10
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    made = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 10}, features=kinds)
    made.to_parquet(here / "me/paths/data/train.parquet")
    with pytest.raises(UserError, match=rf"10 images cannot be read:\n  train, row 1: its file {secret} is not"):
        find_dataset("hf:me/paths")


@pytest.mark.parametrize("text", ["{", "[]", '{"classes": [1], "names": ["a"], "revision": "", "licence": ""}'])
def test_a_changed_card_is_refused(here, picture, text):
    write(here / "me/scenes", picture, ["train"])
    find_dataset("hf:me/scenes")
    (path,) = (here / "home").rglob("hub.json")
    path.write_text(text)
    with pytest.raises(UserError, match=r"hub\.json cannot be used .*: delete"):
        find_dataset("hf:me/scenes")


def test_names_and_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        find_dataset("hf:scenes")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))

    def silent(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", silent)
    with pytest.raises(UserError, match=r"hf:me/scenes: the Hugging Face hub does not find it \(no network\)"):
        find_dataset("hf:me/scenes")
    assert not list((tmp_path / "ddbench").glob("me--scenes"))


def rows_of(values, names=("field", "town"), **columns):
    """A set of one training split; values: image cells, labels 0, 1, 0, 1, ..."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
    rows = {"image": values, "label": [i % len(names) for i in range(len(values))]}
    for name, (kind, cells) in columns.items():
        features[name], rows[name] = kind, cells
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def encoded(picture, number, form="PNG", **options):
    out = io.BytesIO()
    picture(f"image {number}", 12, 12).save(out, form, **options)
    return {"bytes": out.getvalue(), "path": None}


def store(folder, rows):
    (folder / "data").mkdir(parents=True)
    rows.to_parquet(folder / "data/train-00000-of-00001.parquet")


def test_classes_never_share_a_folder(here, data_paths, picture, caplog):
    names = ["trees/shrubs", "trees-shrubs", "Forest", "forest ", "..", ".", "x" * 300, "\u6d77" * 100]
    store(here / "me/set", rows_of([encoded(picture, i) for i in range(32)], names))
    source = find_dataset("hf:me/set")
    assert source.classes[:6] == ("trees-shrubs", "trees-shrubs-2", "Forest", "forest-2", "unnamed", "unnamed-2")
    assert len(set(source.classes)) == 8
    assert max(len(name.encode()) for name in source.classes) <= 255
    assert [len(names) for names in source.describe(data_paths).train] == [3] * 8
    assert "has the folder trees-shrubs-2" in caplog.text


def test_every_image_that_pillow_knows_is_read(here, data_paths, picture):
    more = {"save_all": True, "append_images": [picture("preview", 4, 4)]}
    forms = [("MPO", more), ("JPEG2000", {}), ("JPEG", {}), ("PNG", {}), ("BMP", {}), ("WEBP", {}), ("TIFF", {})]
    cells = [encoded(picture, i, form, **options) for i, (form, options) in enumerate(forms * 2)]
    store(here / "me/set", rows_of(cells))
    assert sum(find_dataset("hf:me/set").verify(data_paths).counts.values()) == len(cells)


def test_broken_images_are_named_by_split_and_row(here, picture):
    cells = [encoded(picture, i) for i in range(12)]
    cells[3], cells[5] = {"bytes": b"\xff\xd8\xff\xe0broken", "path": None}, {"bytes": b"", "path": None}
    cells[8] = None
    store(here / "me/set", rows_of(cells))
    with pytest.raises(UserError, match=r"3 images cannot be read:\n  train, row 3: .*\n  train, row 5: .*\n.*row 8"):
        find_dataset("hf:me/set")
    assert not (here / "home/ddbench/me--set").exists()


def test_a_class_without_an_image_is_left_out_and_said(here, picture, caplog):
    rows = rows_of([encoded(picture, i) for i in range(8)])
    kind = datasets.ClassLabel(names=["field", "unlabeled", "town"])
    rows = rows.map(
        lambda row: {"label": 2 * row["label"]}, features=datasets.Features({**rows.features, "label": kind})
    )
    store(here / "me/set", rows)
    assert find_dataset("hf:me/set").classes == ("field", "town")
    assert "1 classes have no image and are omitted: unlabeled" in caplog.text


def test_columns_are_chosen_by_the_user(here, picture, caplog):
    cells = [encoded(picture, i) for i in range(12)]
    kinds = [datasets.ClassLabel(names=names) for names in (["all"], ["a", "b", "c"])]
    rows = rows_of(cells, coarse=(kinds[0], [0] * 12), fine=(kinds[1], [i % 3 for i in range(12)]))
    store(here / "me/plain", rows)
    assert find_dataset("hf:me/plain").classes == ("field", "town")
    assert "the column label is used, not" in caplog.text
    assert find_dataset("hf:me/plain?label=fine").classes == ("a", "b", "c")
    store(here / "me/set", rows.remove_columns("label").add_column("picture", cells, feature=datasets.Image()))
    with pytest.raises(UserError, match=r"several columns for the label: coarse, fine\. .*hf:me/set\?label=fine"):
        find_dataset("hf:me/set")
    assert find_dataset("hf:me/set?label=fine@50").classes == ("a", "b", "c")
    with pytest.raises(UserError, match="has no column image2 of Image"):
        find_dataset("hf:me/set?label=fine&image=image2")


def test_configurations_are_named(here, picture):
    for config in ("ms", "rgb"):
        store(here / "me/set" / config, rows_of([encoded(picture, i) for i in range(8)], (f"{config} field", "town")))
    card = "".join(
        f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/data/*.parquet\n"
        for config in ("ms", "rgb")
    )
    (here / "me/set/README.md").write_text(f"---\nconfigs:\n{card}---\n")
    with pytest.raises(UserError, match=r"Config name is missing(?s:.)*'rgb'(?s:.)*hf:me/set:CONFIG") as error:
        find_dataset("hf:me/set")
    assert "load_dataset" not in str(error.value)
    assert find_dataset("hf:me/set:rgb").classes == ("rgb field", "town")
    assert find_dataset("hf:me/set:ms@50").classes == ("ms field", "town")


@pytest.mark.parametrize("name", ["hf:../x", "hf:a/..", "hf:a/b:../c", "hf:a/b?folder=x", "hf:a/b?label=", "hf:/a/b"])
def test_names_that_leave_their_folder_are_refused(name):
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        find_dataset(name)
