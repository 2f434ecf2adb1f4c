"""ddbench doctor: the machine, one run, recorded costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_table import entry

from ddbench.cli.main import cli
from ddbench.runner import doctor
from ddbench.runner.plan import Request, evaluation_setup
from ddbench.store.records import write_result, write_spec


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
    assert (data["scenes"]["command"], data["ucm"]["command"]) == ("", "ddbench data prepare ucm")
    dpd = {row["preset"]: row["models"] for row in report["methods"] if row["method"] == "dpd"}
    assert [model["name"] for model in dpd["tiny"]] == ["tiny"]
    assert dpd[None][0]["size"] == 3_435_000_000
    assert not (tmp_path / "runs").exists()


def test_the_cost_of_a_run_is_that_of_the_run_before(call, tmp_path):
    first = call(*RANDOM)
    assert first.exit_code == 0, first.output
    assert first.output.count("no run below --runs is similar") == 2
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
    (line,) = (line for line in done.output.splitlines() if line.startswith("distillation"))
    expected = "distillation 3 s 500 MB 1 recorded: same preset, size, IPC and dataset; cpu (1 threads)"
    assert " ".join(line.split()) == expected


def test_the_cost_of_a_student_is_that_of_students_before(call, tmp_path):
    for method, seconds, memory in (("random", 30.0, 4 * 10**8), ("herding", 90.0, 5 * 10**8)):
        stored = entry(
            0.5, spec={"method": method, "dataset": "ucm"}, seconds=seconds, memory_bytes=memory,
            confusion=[[1, 1], [1, 1]], per_class={"a": 0.5, "b": 0.5}, average=0.5, n_test=4,
        )  # fmt: skip
        folder = stored.spec.folder(tmp_path / "runs")
        folder.mkdir(parents=True)
        write_spec(folder, stored.spec)
        write_result(folder / "results" / "quick-v1" / "convnet-scratch-seed0.json", stored.result)
    title = "quick@1"
    words = ["--protocol", title, "--student", "convnet", "--student", "resnet18", "--format", "json"]
    done = call("doctor", "--method", "kcenter", "--size", "32", "--ipc", "2", *words)
    assert done.exit_code == 0, done.output
    costs = json.loads(done.output)["run"]["costs"]
    student = costs[f"convnet by {title}"]
    assert (student["seconds"], student["memory"], student["gpu_memory"]) == (60.0, 5 * 10**8, 0)
    assert student["precedents"] == "2 recorded: same size and IPC, any dataset"
    assert costs["distillation"] is None
    assert costs[f"resnet18 by {title}"] is None
    text = call("doctor", "--method", "kcenter", "--size", "64", "--ipc", "2", *words[:4]).output
    assert f"convnet by {title}" in text
    assert "60 s" not in text


def test_recorded_costs_are_found_from_near_to_far(call, tmp_path, monkeypatch):
    def recorded(dataset, ipc, preset, seconds, memory):
        spec = doctor.RunSpec("dm", 1, preset, {}, dataset, "", "", 64, ipc, 0)
        return doctor.Precedent(spec, tmp_path / f"{dataset}{ipc}", seconds, memory, 0, "cpu (1 threads)")

    every = [recorded("ucm", 10, None, 30.0, 5), recorded("ucm", 10, None, 50.0, 7), recorded("aid", 10, None, 90.0, 9)]
    monkeypatch.setattr(doctor, "_precedents", lambda runs: iter([*every, recorded("ucm", 1, "tiny", 1.0, 1)]))

    def cost(dataset, ipc, preset=None):
        request = Request("dm", dataset, (ipc,), 64, preset)
        return doctor.estimate_costs(request, None, evaluation_setup([], "quick", 1), tmp_path)["distillation"]

    assert (cost("ucm", 10)["seconds"], cost("ucm", 10)["memory"]) == (40.0, 7)
    assert cost("ucm", 10)["precedents"] == "2 recorded: same preset, size, IPC and dataset"
    assert (cost("nwpu", 10)["seconds"], cost("nwpu", 10)["memory"]) == (50.0, 9)
    assert cost("ucm", 50)["precedents"] == "3 recorded: same preset and size, any IPC"
    assert cost("ucm", 50, "tiny")["seconds"] == 1.0
    unknown = doctor.estimate_costs(Request("mtt", "ucm", (1,), 64), None, evaluation_setup([], "quick", 1), tmp_path)
    assert unknown == {"distillation": None}


def test_costs_are_read_from_an_exported_file(call):
    file = Path(__file__).parents[2] / "experiments" / "worked" / "results.jsonl.gz"
    words = ("--method", "dpd", "--preset", "tiny", "--dataset", "scenes", "--size", "64", "--ipc", "10")
    done = call("--runs", file, "doctor", *words, "--student", "resnet18", "--format", "json")
    assert done.exit_code == 0, done.output
    costs = json.loads(done.output)["run"]["costs"]
    assert costs["distillation"]["precedents"] == "3 recorded: same preset, size, IPC and dataset"
    assert costs["distillation"]["memory"] > 10**9
    assert costs["distillation"]["seconds"] > 20  # 6 s without the stages that the run of IPC 1 made
    assert costs["resnet18 by quick@1"]["precedents"].endswith("same size, IPC and dataset")


def test_a_run_that_would_fail_exits_with_1(call, tmp_path, monkeypatch):
    done = call("doctor", "--method", "random", "--dataset", "siri-whu", "--ipc", "2")
    assert done.exit_code == 1
    assert "it would fail: the images of siri-whu are missing: ddbench data prepare siri-whu" in done.output
    done = call(*RANDOM[:-1], "101")
    assert done.exit_code == 1
    assert "random needs 101 training images of every class, and beach of scenes has 100: ask for 100" in done.output
    assert call(*RANDOM[:-1], "100").exit_code == 0
    for words, code in ((("dm",), 1), (("dm", "--set", "init=noise"), 0), (("diffusion", "--preset", "tiny"), 0)):
        assert call("doctor", "--method", *words, *RANDOM[3:-1], "101").exit_code == code
    done = call("doctor", "--method", "random", "--dataset", "scenes")
    assert done.exit_code == 1
    assert "it would fail: random needs a number of images per class" in done.output
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = call("doctor", "--method", "diffusion", "--dataset", "scenes", "--size", "64", "--ipc", "1")
    assert done.exit_code == 1
    assert "base lcybuaa/Text2Earth is missing, and HF_HUB_OFFLINE forbids to fetch it" in done.output
    more = {"memory": 10**15, "gpu_memory": 0, "seconds": 1.0, "precedents": "1 recorded", "devices": [], "runs": []}
    monkeypatch.setattr(doctor, "estimate_costs", lambda *_: {"distillation": more})
    done = call(*RANDOM)
    assert done.exit_code == 1
    assert "distillation takes 1000000.0 GB of memory, of" in done.output


@pytest.mark.parametrize("words", [["--size", "32"], ["--ipc", "2"], ["--dataset", "scenes"]])
def test_options_that_belong_together(call, words):
    assert call("doctor", *words).exit_code == 2
