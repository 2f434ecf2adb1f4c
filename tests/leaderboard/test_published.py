"""Test that published accuracies are complete rows, and the settings of presets that are named after a publication."""

from __future__ import annotations

import re

import pytest

from ddbench import config
from ddbench.leaderboard.published import FILE, published
from ddbench.protocols import load_protocol
from ddbench.registry import load_method, names
from evaluators.catalog import STUDENTS

ROWS = [row for method in names("methods") for row in published(method)]


def test_every_row_belongs_to_a_method():
    assert len(ROWS) == len(config.read_toml(FILE)["published"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method}-{row.preset}-{row.dataset}-{row.student}")
def test_a_row_is_complete_and_its_settings_exist(row):
    assert len(row.ipc) == len(row.percent)
    assert len(row.std) in (0, len(row.ipc))
    assert list(row.ipc) == sorted(set(row.ipc))
    assert all(0 < percent < 100 for percent in row.percent)
    assert row.student in STUDENTS
    load_protocol(row.protocol).recipe(row.student)
    assert load_protocol(row.protocol).title == row.protocol
    config.build(load_method(row.method), row.preset or None)


def test_the_methods_of_another_package_have_none():
    assert published("mine") == ()


# kmeans follows no paper; dpd's tables could not be obtained; el2n's paper keeps shares of a dataset, not images per
# class; of cadprune's only tables with RDED's crops are known
NO_ACCURACY = {"kmeans", "dpd", "el2n", "cadprune"}


@pytest.mark.parametrize("method", sorted(set(names("methods")) - NO_ACCURACY))
def test_every_method_names_an_accuracy_and_a_protocol_that_exists(method):
    """In a row, or in the first sentence of a preset."""
    purposes = [config.preset_purpose(file) for file in config.presets(load_method(method)).values()]
    stated = [text for text in purposes if "%" in text]
    assert published(method) or stated
    for text in stated:
        (title,) = re.findall(r"[a-z0-9-]+@\d+", text)
        assert load_protocol(title).title == title


# settings of papers and public codes, of methods with a teacher or a diffusion model
DIT = {
    "base": "facebook/DiT-XL-2-256", "base_size": 256, "variance": "learned", "scheduler": "DDPMScheduler",
    "spacing": "linspace", "steps": 50, "guidance": 4.0, "guidance_channels": 3,
}  # fmt: skip
DIFFFIT = {
    "weights": "difffit", "tune_steps": 12_000, "tune_batch": 8, "tune_rate": 1e-3, "tune_warmup": 0, "tune_empty": 0.1,
    "tune_ema": 0.9999, "tune_average": "constant", "tune_mirror": True, "tune_decay": 0.0, "tune_weight": "even",
}  # fmt: skip
MINIMAX = DIT | DIFFFIT | {"alike": 0.002, "unlike": 0.008, "memory": 64}
MGD3 = DIT | {"weights": "none", "pull": 0.1, "free": 0.5, "estimate": "prompt"}
DMGD = DIT | {
    "weights": "none", "points": 10, "epsilon": 0.1, "iterations": 5, "pull_from": 0.08, "pull_until": 0.4,
    "noise_high": 0.9, "noise_low": 0.5, "noise_weight": 0.06, "label_weight": 0.01, "pull_sigma": "deviation",
}  # fmt: skip
CAO2 = DIT | {
    "weights": "none", "guidance": 2.7, "polish_steps": 100, "polish_rate": 6e-4,
    "polish_until": 0.25,
}  # fmt: skip
D3HR = {
    "base": "facebook/DiT-XL-2-256", "base_size": 256, "scheduler": "DDIMScheduler", "spacing": "leading", "steps": 50,
    "guidance": 4.0, "guidance_channels": 0, "weights": "none", "groups": 100_000, "skewness": 0.5,
}  # fmt: skip
IGD = DIT | {
    "weights": "none", "influence": 5.0, "deviation": 120.0, "guided_from": 0.08, "guided_until": 0.4,
    "backprop": "denoiser", "memory": 64, "surrogate": "convnet", "similarity": 0.7, "choice_images": 80,
    "target_images": 200, "surrogate_images": 0,
}  # fmt: skip
SURROGATE = {"surrogate_epochs": 50, "surrogate_rate": 0.01, "surrogate_decay": 5e-4, "surrogate_batch": 64}
LGD = IGD | SURROGATE | {
    "stage_images": 10, "learnability": 15.0, "omega": 0.5, "stage_deviation": 50.0, "stage_from": 0.08,
    "stage_until": 0.8, "candidates": 3,
}  # fmt: skip
SD15 = {
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "base_size": 512, "prompt": "{}", "strength": 0.7,
    "negative": "cartoon, anime, painting", "steps": 50, "precision": "fp16",
}  # fmt: skip
D4M = SD15 | {"weights": "none", "guidance": 8.0}
VLCP = SD15 | {
    "weights": "all", "guidance": 10.0, "captioner": "llava-hf/llava-1.5-7b-hf", "outliers": 0.1, "neighbours": 10,
    "tune_epochs": 8, "tune_batch": 128, "tune_rate": 1e-5, "tune_warmup": 0, "tune_mirror": True,
}  # fmt: skip
RDED = {"images": 300, "crops": 5, "smallest": 0.08, "training": "squeeze", "epochs": 200, "teacher": "resnet18"}
CONVNET = {"teacher": "convnet_bn"}
SRE2L = {"first": 10.0, "classes": 100, "teacher": "resnet18", "soft": True}
MAPS = ("imagenette", "imagewoof", "imagenet10")

PRESETS = [
    *(("minimax", name, MINIMAX | {"base_classes": name}) for name in MAPS),
    *(("mgd3", name, MGD3 | {"base_classes": name}) for name in ("imagenette", "imagenet10", "imagenet")),
    ("mgd3", "imagewoof", MGD3 | DIFFFIT | {"base_classes": "imagewoof"}),
    *(("dmgd", name, DMGD | {"base_classes": name, "pull": 0.5}) for name in ("imagewoof", "imagenet")),
    ("dmgd", "imagenette", DMGD | {"base_classes": "imagenette", "pull": 0.05}),
    ("cao2", "imagenette", CAO2 | {"pool": 2, "polish_condition": "class", "pool_choice": "confident"}),
    *(
        ("cao2", name, CAO2 | {"pool": 4, "polish_condition": "empty", "pool_choice": choice})
        for name, choice in (("imagewoof", "confident"), ("imagewoof-ipc50", "doubtful"), ("imagenet", "confident"))
    ),
    ("d3hr", "imagenet", D3HR | {"base_classes": "imagenet"}),
    *(("igd", name, IGD | SURROGATE | {"base_classes": name}) for name in ("imagenette", "imagewoof")),
    ("igd", "imagenet", IGD | {"surrogate_rate": 0.1, "surrogate_decay": 1e-4, "surrogate_batch": 128}),
    *(("lgd", name, LGD | {"base_classes": name}) for name in ("imagenette", "imagewoof")),
    *(("diffusion", name, DIT | {"weights": "none", "base_classes": name}) for name in ("imagewoof", "imagenet")),
    *(("d4m", name, D4M) for name in ("imagenet", "imagenette", "imagenet10", "tiny-imagenet")),
    *(("vlcp", name, VLCP) for name in ("imagenet", "imagenette", "imagenet10")),
    *(("rded", name, RDED | {"factor": 1}) for name in ("cifar10", "cifar100", "tiny-imagenet")),
    *(("rded", name, RDED | {"factor": 2}) for name in ("imagenette", "imagewoof")),
    ("rded", "imagenet", RDED | {"factor": 2, "epochs": 90}),
    *(("rded", f"{name}-convnet", RDED | CONVNET | {"factor": 1}) for name in ("cifar10", "tiny-imagenet")),
    *(("rded", f"{name}-convnet", RDED | CONVNET | {"factor": 2}) for name in ("imagenette", "imagewoof")),
    (
        "sre2l", "imagenet", SRE2L | {
            "iterations": 4000, "rate": 0.25, "statistics": 0.01, "smallest": 0.08, "mirror": True, "roll": 32,
            "normalise": "imagenet", "epochs": 90,
        },
    ),
    (
        "sre2l", "tiny-imagenet", SRE2L | {
            "iterations": 4000, "rate": 0.1, "statistics": 1.0, "smallest": 0.08, "mirror": True, "roll": 4,
            "normalise": "data", "training": "squeeze-tiny", "epochs": 50,
        },
    ),
    (
        "sre2l", "cifar100", SRE2L | {
            "iterations": 1000, "rate": 0.25, "statistics": 0.01, "smallest": 1.0, "mirror": False, "roll": 4,
            "normalise": "cifar10", "training": "squeeze", "epochs": 200,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "preset", "expected"), PRESETS)
def test_presets_are_the_published_settings(method, preset, expected):
    built = config.build(load_method(method), preset)
    assert {name: getattr(built, name) for name in expected} == expected


def test_every_preset_of_these_methods_is_compared():
    ours = {(method, preset) for method, preset, _ in PRESETS}
    for method in sorted({method for method, _ in ours}):
        assert {(method, name) for name in config.presets(load_method(method)) if name != "tiny"} <= ours
