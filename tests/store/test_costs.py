"""What a distillation took: nothing twice, nothing lost, nothing that cannot be."""

import json

import pytest

from ddbench.store.costs import DistillationCost, read_cost

STAGES = [
    {"stage": "latents", "reused": True, "seconds": 50.0, "waited": 7.0, "folder": "latents-1"},
    {"stage": "expert", "reused": False, "seconds": 3.0, "folder": "expert-1"},
    {"stage": "expert", "reused": False, "seconds": 2.0, "folder": "expert-2"},
    {"stage": "finetune", "reused": False, "seconds": 30.0, "earlier_seconds": 20.0, "folder": "finetune-1"},
    {"stage": "sampling", "reused": False, "seconds": 1.0},
]


def test_by_hand(tmp_path):
    # 40 of the last process and 20 of one that was killed, without the 7 it waited for what another made
    (tmp_path / "distill.json").write_text(json.dumps({"seconds": 40.0, "stages": STAGES}))
    cost = read_cost(tmp_path)
    assert cost.seconds == 53.0
    assert cost.stages == {"expert": 5.0, "finetune": 30.0, "sampling": 1.0}
    assert cost.folders["latents"] == "latents-1"
    assert "sampling" not in cost.folders


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"seconds": NaN}', '{"seconds": Infinity}', '{"seconds": -1}', '{"seconds": "3"}',
        '{"seconds": 1, "stages": null}', '{"seconds": 1, "stages": [{}]}', '{"seconds": 1, "stages": [3]}',
        '{"seconds": 1, "stages": [{"stage": "a", "seconds": NaN}]}',
        '{"seconds": 1, "stages": [{"stage": "a", "seconds": 1, "folder": 3}]}',
    ],
)  # fmt: skip
def test_what_says_nothing_that_could_be_true_says_nothing(tmp_path, text):
    (tmp_path / "distill.json").write_text(text)
    assert read_cost(tmp_path) == DistillationCost()
    assert read_cost(tmp_path / "gone") == DistillationCost()
