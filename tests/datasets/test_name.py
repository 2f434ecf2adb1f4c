"""Names of datasets: one parser for registered names, folder:, hf:, @split and @FILE.csv."""

import pytest

from ddbench.datasets.name import DatasetName


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ucm", ("", "ucm", "")),
        ("ucm@20", ("", "ucm", "20")),
        ("ucm@lists/odd.csv", ("", "ucm", "lists/odd.csv")),
        ("ucm@", ("", "ucm@", "")),
        ("@20", ("", "@20", "")),
        ("hf:me/scenes", ("hf:", "me/scenes", "")),
        ("hf:me/scenes@torchgeo", ("hf:", "me/scenes", "torchgeo")),
        ("folder:images@50", ("folder:", "images", "50")),
        ("folder:my@home/images", ("folder:", "my@home/images", "")),
        ("folder:images@lists/odd.csv", ("folder:", "images", "lists/odd.csv")),
        ("folder:", ("folder:", "", "")),
    ],
)
def test_a_name_is_parsed_and_joined(text, parts):
    name = DatasetName.parse(text)
    assert (name.prefix, name.location, name.split) == parts
    assert str(name) == text
    assert name.registered == (not parts[0])


def test_an_existing_folder_with_an_at_sign_has_no_split(tmp_path):
    (tmp_path / "tree@home").mkdir()
    assert DatasetName.parse(f"folder:{tmp_path}/tree@home").split == ""
    assert DatasetName.parse(f"folder:{tmp_path}/tree@home@30").split == "30"


def test_results_show_no_path_and_absolute_names_have_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = DatasetName.parse("folder:some/images@lists/odd.csv")
    assert name.display == "folder:images@odd.csv"
    assert name.absolute == f"folder:{tmp_path}/some/images@{tmp_path}/lists/odd.csv"
    assert DatasetName.parse("ucm@lists/odd.csv").display == "ucm@odd.csv"
    assert DatasetName.parse("hf:me/scenes@30").absolute == "hf:me/scenes@30"


@pytest.mark.parametrize(
    ("text", "slug"),
    [("ucm@20", "ucm-20"), ("folder:some/my images@30", "folder-my-images-30"), ("hf:me/scenes", "hf-scenes")],
)
def test_a_slug_is_a_file_name(text, slug):
    assert DatasetName.parse(text).slug == slug
