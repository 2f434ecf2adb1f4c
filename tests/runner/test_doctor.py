"""ddbench doctor: the machine, one run, recorded costs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.runner import doctor
from ddbench.runner.plan import Request
from ddbench.store.records import write_spec


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def invoke(*words):
        base = [
            "--data-root",
            tmp_path,
            "--runs",
            tmp_path / "runs",
            "--shared",
            tmp_path / "shared",
            "--device",
            "cpu",
        ]
        return CliRunner().invoke(cli, [str(word) for word in (*base, *words)])

    return invoke


RANDOM = ("doctor", "--method", "random", "--dataset", "scenes", "--size", "32", "--ipc", "2")


def test_all_is_listed(call, tmp_path):
    done = call("doctor", "--format", "json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["machine"]["versions"]["ddbench"]
    assert report["machine"]["device"]["name"].startswith("cpu")
    assert report["machine"]["disk"]["runs"]["free"] > 0
    data = {row["name"]: row for row in report["datasets"]}
    assert data["scenes"]["present"]
    assert (data["siri-whu"]["state"], data["siri-whu"]["size"]) == ("missing", 147_702_566)
    assert {row["name"]: row["present"] for row in report["bases"]}["tiny"]
    dpd = {row["preset"]: row["models"] for row in report["methods"] if row["method"] == "dpd"}
    assert [model["name"] for model in dpd["tiny"]] == ["tiny"]
    assert dpd[None][0]["size"] == 3_435_000_000
    assert not (tmp_path / "runs").exists()


def test_the_cost_of_a_run_is_that_of_the_run_before(call, tmp_path):
    first = call(*RANDOM)
    assert first.exit_code == 0, first.output
    assert "time and memory unknown: no run below --runs is similar" in first.output
    assert not (tmp_path / "runs").exists()
    spec = {"method": "random", "method_version": 1, "preset": None, "params": {}, "dataset": "scenes", "split": ""}
    spec |= {"fingerprint": "", "size": 32, "ipc": 2, "seed": 0}
    recorded = doctor.RunSpec(**spec)
    data = recorded.folder(tmp_path / "runs")
    data.mkdir(parents=True)
    write_spec(data, recorded)
    record = {"seconds": 3.0, "memory": {"rss_bytes": 500_000_000}, "device": "cpu (1 threads)", "stages": []}
    (data / "distill.json").write_text(json.dumps(record))
    (tmp_path / "runs/scenes32/random/ipc2/seed1-00000000").mkdir()
    (tmp_path / "runs/scenes32/random/ipc2/seed1-00000000/spec.json").write_text("{")  # damaged: left out
    done = call(*RANDOM)
    assert (
        "distillation: about 3 s, 500 MB of memory (1 recorded: same preset, size, IPC and dataset; cpu" in done.output
    )


def test_recorded_costs_are_found_from_near_to_far(call, tmp_path, monkeypatch):
    def recorded(dataset, ipc, preset, seconds, memory):
        spec = doctor.RunSpec("dm", 1, preset, {}, dataset, "", "", 64, ipc, 0)
        return doctor.Precedent(spec, tmp_path / f"{dataset}{ipc}", seconds, memory, 0, "cpu (1 threads)")

    every = [recorded("ucm", 10, None, 30.0, 5), recorded("ucm", 10, None, 50.0, 7), recorded("aid", 10, None, 90.0, 9)]
    monkeypatch.setattr(doctor, "_precedents", lambda runs: iter([*every, recorded("ucm", 1, "tiny", 1.0, 1)]))

    def cost(dataset, ipc, preset=None):
        return doctor.estimate_cost(Request("dm", dataset, (ipc,), 64, preset), None, tmp_path)

    assert (cost("ucm", 10)["seconds"], cost("ucm", 10)["memory"]) == (40.0, 7)
    assert cost("ucm", 10)["precedents"] == "2 recorded: same preset, size, IPC and dataset"
    assert (cost("nwpu", 10)["seconds"], cost("nwpu", 10)["memory"]) == (50.0, 9)
    assert cost("ucm", 50)["precedents"] == "3 recorded: same preset and size, another IPC"
    assert cost("ucm", 50, "tiny")["seconds"] == 1.0
    assert doctor.estimate_cost(Request("mtt", "ucm", (1,), 64), None, tmp_path) is None


def test_a_run_that_would_fail_exits_with_1(call, tmp_path, monkeypatch):
    done = call("doctor", "--method", "random", "--dataset", "siri-whu", "--ipc", "2")
    assert done.exit_code == 1
    assert "it would fail: the images of siri-whu are missing: ddbench data prepare siri-whu" in done.output
    done = call("doctor", "--method", "random", "--dataset", "scenes")
    assert done.exit_code == 1
    assert "it would fail: random needs a number of images per class" in done.output
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call("doctor", "--method", "diffusion", "--dataset", "scenes", "--size", "64", "--ipc", "1")
    assert done.exit_code == 1
    assert "base lcybuaa/Text2Earth is missing, and HF_HUB_OFFLINE forbids to fetch it" in done.output
    more = {"memory": 10**15, "gpu_memory": 0, "seconds": 1.0, "precedents": "1 recorded", "devices": [], "runs": []}
    monkeypatch.setattr(doctor, "estimate_cost", lambda *_: more)
    done = call(*RANDOM)
    assert done.exit_code == 1
    assert "it takes 1000000.0 GB of memory, of" in done.output


@pytest.mark.parametrize("words", [["--method", "random"], ["--ipc", "2"], ["--dataset", "scenes"]])
def test_options_that_belong_together(call, words):
    assert call("doctor", *words).exit_code == 2
