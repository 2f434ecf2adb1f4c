"""Facts of base models; which models are on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.errors import UserError
from ddbench.utils import bases


def test_facts_are_complete():
    rows = bases.known_bases().values()
    assert {"tiny", "text2earth", "geosynth", "earthsynth", "diffusionsat"} <= {row.name for row in rows}
    for row in rows:
        assert row.sources
        assert row.tried.startswith("not tried") or row.name == "tiny"
    assert bases.size_of("lcybuaa/Text2Earth") == 3_435_000_000
    assert bases.size_of("nobody/nothing") == 0


def test_the_size_of_the_embedded_base_is_that_of_its_weights():
    folder = Path(bases.__file__).parents[1] / "base_model" / "tiny"
    weights = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))
    assert bases.known_bases()["tiny"].size == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize("name", ["text2earth", "lcybuaa/Text2Earth"])
def test_show_explains_one(name):
    result = CliRunner().invoke(cli, ["show", name])
    assert result.exit_code == 0, result.output
    for words in ("text2earth (base model)", "3.4 GB", "Apache-2.0", "not tried", "--set base=lcybuaa/Text2Earth"):
        assert words in result.output


def test_bases_are_listed_and_unknown_ones_are_refused():
    assert "geosynth" in CliRunner().invoke(cli, ["list", "bases"]).output.splitlines()
    with pytest.raises(UserError, match="unknown base model 'text2eart'; did you mean text2earth"):
        bases.find_base("text2eart")


def test_a_model_is_here_if_its_weights_are(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert bases.is_local("tiny")
    assert not bases.is_local("me/base")
    assert not bases.is_local(str(tmp_path / "no where"))
    (tmp_path / "base/unet").mkdir(parents=True)
    assert not bases.is_local(str(tmp_path / "base"))
    (tmp_path / "base/unet/diffusion_pytorch_model.bin").touch()
    assert bases.is_local(str(tmp_path / "base"))
