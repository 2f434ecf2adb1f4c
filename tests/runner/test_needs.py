"""All that a run lacks, in one answer."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.runner.needs import model_needs


@pytest.fixture
def no_models(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def run(tmp_path, *words):
    base = ["--data-root", tmp_path, "--runs", tmp_path / "runs", "--shared", tmp_path / "shared", "run"]
    return CliRunner().invoke(cli, [str(word) for word in (*base, *words)])


def test_without_images_and_base_all_is_said_at_once(tmp_path, no_models):
    done = run(tmp_path, "--method", "dpd", "--dataset", "nwpu", "--ipc", "10")
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[0].startswith("Error: nwpu (NWPU-RESISC45) was not found")
    start = lines.index("Missing, all of it:")
    assert lines[start + 1].strip() == "dataset nwpu: 427 MB to download; ddbench data prepare nwpu"
    assert (
        lines[start + 2].strip().startswith("base lcybuaa/Text2Earth: 3.4 GB to download; hf download lcybuaa/Text2E")
    )
    assert lines[start + 3].strip().startswith("captioner llava-hf/llava-1.5-7b-hf: 14.1 GB to download")
    assert "--preset tiny" in lines[-1]
    assert not (tmp_path / "runs").exists()


def test_with_the_embedded_base_only_the_images_are_missing(tmp_path, no_models):
    done = run(tmp_path, "--method", "dpd", "--preset", "tiny", "--dataset", "mlrsnet", "--ipc", "10")
    assert done.exit_code == 2
    lines = done.output.splitlines()
    assert lines[-2:] == [
        "Missing:",
        "  dataset mlrsnet: size unknown; ddbench data prepare mlrsnet --from ARCHIVE_OR_FOLDER",
    ]


def test_methods_say_their_models(no_models):
    assert model_needs("random") == []
    assert model_needs("kmeans") == []
    assert [need.name for need in model_needs("kmeans", sets=("features=latents",))] == ["lcybuaa/Text2Earth"]
    assert [need.use for need in model_needs("vlcp")] == ["base", "captioner"]
    assert [(need.name, need.present) for need in model_needs("dpd", "tiny")] == [("tiny", True)]
