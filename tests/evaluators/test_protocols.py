"""Published rows never change; the package stands alone."""

import json
import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from evaluators import VERSION, corruptions, dsa, operations
from evaluators.augment import COLOUR_WEIGHTS, ERASED_AREA, ERASED_RATIO, GREY, PRINCIPAL_COLOURS
from evaluators.catalog import STUDENTS
from evaluators.normalisation import MEAN, PUBLISHED, STD
from evaluators.protocols import PROTOCOLS, protocol
from evaluators.recipes import DSA, OPERATIONS, RANDAUGMENT, Augment, Protocol, Recipe
from evaluators.train import learning_rate

RECIPE = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=10, epochs=3, min_steps=20, max_steps=50)
MINE = Protocol("mine", 1, {"convnet": RECIPE}, source="this test")


@pytest.mark.parametrize(("images", "steps"), [(1, 20), (60, 20), (67, 21), (101, 31), (100_000, 50)])
def test_steps_grow_with_the_set_within_bounds(images, steps):
    assert RECIPE.steps(images) == steps


def test_a_name_without_version_is_the_newest():
    assert protocol("quick") is protocol("quick@1") is PROTOCOLS["quick@1"]


@pytest.mark.parametrize("name", ["quick@7", "quik", "dpd@0", ""])
def test_an_unknown_protocol_lists_all(name):
    with pytest.raises(ValueError, match=r"Known: quick@1, long@1, deit@1, quick-hard@1, .*, soft@1, .*, fid@1$"):
        protocol(name)


def test_named_protocols_serve_known_students():
    for title, row in PROTOCOLS.items():
        assert row.title == title
        assert set(row.recipes) <= set(STUDENTS)
        assert row.source


def test_the_release_starts_from_imagenet_and_its_twin_does_not():
    pretrained, scratch = protocol("dpd"), protocol("dpd-scratch")
    assert (pretrained.init, scratch.init) == ("imagenet", "scratch")
    assert pretrained.recipes == scratch.recipes
    assert set(pretrained.recipes) == {"vgg16", "inception_v3", "resnet18", "densenet121"}


def test_the_releases_numbers():
    """21 classes at IPC 5: seven batches an epoch, and the rate falls after two thirds and five sixths of the steps."""
    recipe = protocol("dpd").recipe("resnet18")
    assert recipe.steps(105) == 7000
    rates = [learning_rate(recipe, step, 7000) for step in range(7000)]
    assert rates.count(0.01) == 4667
    assert sum(rate == pytest.approx(1e-3) for rate in rates) == 1166
    assert rates[-1] == pytest.approx(1e-4)


def test_the_literatures_numbers():
    """A set that fits into a batch is one step an epoch: 502 at the rate, 499 at a tenth of it."""
    recipe = protocol("dc@1").recipe("convnet")
    rates = [learning_rate(recipe, step, recipe.steps(100)) for step in range(recipe.steps(100))]
    assert (rates.count(0.01), len(rates)) == (502, 1001)
    assert recipe.steps(257) == 2002


def test_dc_2_has_the_numbers_of_dc_1_and_what_it_states():
    first, second = (protocol(f"dc@{version}").recipe("convnet") for version in (1, 2))
    assert second == replace(first, normalise="data", new_optimizer=True, precision="fp32")
    assert protocol("dc") is protocol("dc@2")


def test_dc_plain_has_dcs_own_numbers():
    """A loop of 300 + 1 epochs, whose rate falls after epoch 300 // 2 + 1, counted from 0."""
    plain = protocol("dc-plain").recipe("convnet")
    rates = [learning_rate(plain, step, plain.steps(100)) for step in range(plain.steps(100))]
    assert (rates.count(0.01), len(rates)) == (300 // 2 + 2, 301)
    second = protocol("dc@2").recipe("convnet")
    assert replace(plain, epochs=1001, milestones=second.milestones, augment=second.augment) == second
    assert plain.augment == Augment()


def test_mtts_rows_are_dc_2_at_the_learned_rate_on_float_images():
    """The public code evaluates by the same loop at the rate that it learned, whitened where it distils whitened."""
    second = protocol("dc@2").recipe("convnet")
    for title, changes in (
        ("dc-float", {}), ("mtt", {"learned_rate": True}), ("mtt-zca", {"learned_rate": True, "normalise": "zca"}),
    ):  # fmt: skip
        row = protocol(f"{title}@1")
        assert row.recipes == {"convnet": replace(second, **changes)}
        assert row.float_images
    plain = protocol("dc-plain-float@1")
    assert (plain.recipes, plain.float_images) == (protocol("dc-plain@1").recipes, True)


def test_a_learned_rate_replaces_lr():
    row = protocol("mtt")
    at = row.at_rate("convnet", 0.03).recipe("convnet")
    assert at == replace(protocol("dc@2").recipe("convnet"), lr=0.03)
    assert protocol("dc").at_rate("convnet", 0.03) is protocol("dc")
    with pytest.raises(ValueError, match=r"mtt@1 trains at the learning rate that a distilled set carries.* has none"):
        row.at_rate("convnet", None)
    with pytest.raises(ValueError, match=r"learned rate, which is -0\.1: it must be above 0"):
        row.at_rate("convnet", -0.1)


@pytest.mark.parametrize(
    ("ipc", "epochs"), [(1, 3000), (2, 2000), (10, 2000), (11, 1500), (50, 1500), (200, 1000), (500, 500), (501, 300)]
)
def test_idcs_numbers(ipc, epochs):
    """Ten classes in batches of 64: the rate falls to a fifth after two thirds and five sixths of the epochs."""
    recipe = protocol("idc@1").recipe("resnet_ap10")
    steps = recipe.steps(10 * ipc, 10)
    assert steps == epochs * -(-10 * ipc // 64)
    drops = round(steps * 2 / 3), round(steps * 5 / 6)
    rates = [learning_rate(recipe, step, steps) for step in (0, drops[0] - 1, *drops, steps - 1)]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.0004, 0.0004])
    assert (recipe.tests, recipe.augment.cutmix, recipe.augment.mix_batch) == (100, 1.0, True)


@pytest.mark.parametrize("ipc", [1, 10, 50, 200, 500, 501])
def test_idc_2_has_idcs_rule_for_100_classes(ipc):
    """Exactly 100 classes: int(2 / 3 of the epochs), rounded down to hundreds. All others as in idc@1."""
    first, second = (protocol(f"idc@{version}").recipe("convnet6") for version in (1, 2))
    assert protocol("idc") is protocol("idc@2")
    assert replace(second, normalise="data", epochs_by_classes=()) == first
    assert second.normalise == "imagenet"
    for classes in (10, 99, 100, 101, 1000):
        epochs = first.for_set(classes * ipc, classes).epochs
        if classes == 100:
            epochs = int((2 / 3) * epochs)
            epochs -= epochs % 100
        assert second.for_set(classes * ipc, classes).epochs == epochs
        assert second.steps(classes * ipc, classes) == epochs * -(-classes * ipc // 64)


@pytest.mark.parametrize(
    ("classes", "ipc", "batch"),
    [
        (10, 1, 10), (10, 10, 50), (10, 50, 100), (10, 100, 100), (21, 10, 50),
        (100, 1, 20), (100, 10, 100), (100, 50, 200), (1000, 10, 100), (1000, 50, 200),
        (200, 1, 100), (200, 10, 100), (200, 50, 100),
    ],
)  # fmt: skip
def test_rdeds_batches(classes, ipc, batch):
    """By images per class, twice as large for 100 and 1000 classes, 100 for Tiny ImageNet's 200."""
    recipe = protocol("rded").recipe("resnet18")
    assert recipe.for_set(classes * ipc, classes).batch == batch
    assert recipe.steps(classes * ipc, classes) == 300 * -(-classes * ipc // batch)
    assert recipe.views(classes * ipc, classes) == 300 * classes * ipc


def test_rdeds_rate_ends_at_half():
    """After every epoch 0.5 (1 + cos(pi e / (2 E))) there; here at the middle of each step."""
    recipe = protocol("rded").recipe("resnet18")
    rates = [learning_rate(recipe, step, 300) for step in range(300)]
    for epoch in (0, 100, 299):
        assert rates[epoch] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * (epoch + 0.5) / 600)))
    assert rates[-1] == pytest.approx(0.5e-3, rel=3e-3)


def test_rdeds_rows_differ_where_they_say():
    small, large = protocol("rded@1"), protocol("rded-224@1")
    assert (small.labels, small.teacher, small.size, large.size) == ("views", ("resnet18", "squeeze@1"), 0, 224)
    for student, recipe in small.recipes.items():
        assert recipe.lr == (2e-3 if student == "efficientnet_b0" else 1e-3)
        assert replace(large.recipe(student), augment=recipe.augment) == recipe
    views = large.recipe("resnet18").augment
    assert (views.shuffle_pieces, views.crop_area, views.flip_x, views.cutmix) == (2, (0.5, 1.0), 0.5, 1.0)
    assert replace(small.recipe("resnet18").augment, flip_x=0.0) == Augment(cutmix=1.0, mix_batch=True)
    for title, views in (("rded-convnet@1", small), ("rded-convnet-128@1", large)):
        row = protocol(title)
        assert row.teacher == ("convnet_bn", "squeeze@1")
        assert row.recipes == {"convnet_bn": views.recipe("convnet_bn")}


def test_fkd_2_has_the_numbers_of_sre2l():
    first, second = protocol("fkd@1"), protocol("fkd")
    assert (second.version, second.teacher, second.labels) == (2, ("resnet18", "squeeze@1"), "views")
    recipe = second.recipe("resnet18")
    assert recipe == replace(first.recipe("resnet18"), batch=1024, normalise="imagenet", precision="fp32")
    assert (recipe.lr, recipe.weight_decay, recipe.decay_all, recipe.epochs, recipe.temperature) == (
        1e-3, 0.01, False, 300, 20.0,
    )  # fmt: skip
    assert recipe.steps(10_000) == 300 * 10


def test_teachers_train_as_sre2ls():
    recipe = protocol("squeeze").recipe("resnet18")
    assert recipe.steps(50_000) == 200 * 391
    rates = [learning_rate(recipe, step, 400) for step in (0, 199, 399)]
    assert rates == pytest.approx([0.1, 0.05, 0.0], abs=3e-4)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.decay_all) == (0.9, False, 5e-4, True)
    assert recipe.augment == Augment(flip_x=0.5, dsa=("crop",))


def test_sre2l_has_an_evaluation_for_cifar():
    """relabel_cifar.py: AdamW on every weight, T = 30, mixup of every batch, a teacher in training mode."""
    row = protocol("sre2l-cifar")
    assert (row.teacher, row.labels, row.teacher_statistics) == (("resnet18", "squeeze@1"), "views", "batch")
    recipe = row.recipe("resnet18")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.decay_all) == ("adamw", 1e-3, 0.01, True)
    assert (recipe.momentum, recipe.beta2, recipe.warmup, recipe.precision) == (0.9, 0.999, 0.0, "fp32")
    assert (recipe.temperature, recipe.temperature_squared, recipe.normalise) == (30.0, False, "cifar10")
    assert recipe.steps(100 * 50, 100) == 400 * 40
    squeeze = protocol("squeeze").recipe("resnet18").augment
    assert recipe.augment == replace(squeeze, mixup=1.0, mixup_alpha=0.8, mix_batch=True)


def test_sre2l_has_an_evaluation_for_tiny_imagenet():
    """train_kd.py: torchvision's SGD at 0.2 with 5 epochs of warm-up, crops and flips, T = 20 and its square."""
    row, real = protocol("sre2l-tiny"), protocol("squeeze-tiny")
    assert (row.teacher, row.labels, row.teacher_statistics) == (("resnet18", "squeeze-tiny@1"), "views", "running")
    assert (real.teacher, real.labels) == (None, "hard")
    teacher, student = (rows.recipe("resnet18") for rows in (real, row))
    views = {"temperature": 20.0, "temperature_squared": True}
    assert student == replace(teacher, epochs=100, warmup=0.05, **views)
    assert (teacher.steps(100_000), student.steps(200 * 50)) == (50 * 391, 100 * 40)
    rates = [learning_rate(student, step, 4000) for step in range(4000)]
    assert rates.index(max(rates)) in (199, 200)  # after five epochs of forty steps
    assert rates[100] == pytest.approx(0.1, rel=0.01)
    assert rates[2099] == pytest.approx(0.1, rel=0.01)  # half a cosine over the other 95 epochs
    assert (max(rates), rates[-1]) == (pytest.approx(0.2, rel=0.01), pytest.approx(0, abs=1e-6))
    assert (teacher.momentum, teacher.nesterov, teacher.weight_decay, teacher.decay_all) == (0.9, False, 1e-4, True)
    assert (teacher.augment.crop_area, teacher.augment.crop_ratio, teacher.augment.flip_x, teacher.augment.mixes) == (
        (0.08, 1.0), (3 / 4, 4 / 3), 0.5, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("title", "like", "normalise"),
    [
        ("dc-cifar100@1", "dc-float@1", "cifar100"), ("dc-plain-cifar100@1", "dc-plain-float@1", "cifar100"),
        ("dc-imagenet@1", "dc-float@1", "imagenet"), ("mtt-imagenet@1", "mtt@1", "imagenet"),
    ],
)  # fmt: skip
def test_rows_by_constants_differ_in_them_alone(title, like, normalise):
    row, other = protocol(title), protocol(like)
    assert row.recipes == {"convnet": replace(other.recipe("convnet"), normalise=normalise)}
    assert (row.float_images, row.labels, row.teacher) == (other.float_images, other.labels, other.teacher)


def test_epochs_by_images_per_class_need_the_classes():
    with pytest.raises(ValueError, match="give the number of classes"):
        protocol("idc").recipe("convnet6").steps(100)
    by_set = replace(RECIPE, epochs_by_ipc=((2, 5),), epochs_by_classes=((7, 0, 4),), batch_by_ipc=((2, 5),))
    longer = by_set.longer(3)
    assert (longer.epochs_by_ipc, longer.epochs_by_classes, longer.batch_by_ipc) == (
        ((2, 15),),
        ((7, 0, 12),),
        ((2, 5),),
    )


def test_deits_numbers():
    recipe = protocol("deit").recipe("vit_tiny")
    assert replace(recipe, augment=Augment()) == replace(
        protocol("long").recipe("vit_tiny"), augment=Augment(), warmup=1 / 60, clip=0.0
    )
    assert (recipe.optimizer, recipe.weight_decay, recipe.label_smoothing) == ("adamw", 0.05, 0.1)
    views = recipe.augment
    assert (views.operations, views.operations_per_image, views.operation_chance) == (RANDAUGMENT, 2, 0.5)
    assert (views.magnitude, views.magnitude_deviation, views.erasing) == (0.9, 0.05, 0.25)


def test_no_limit_on_steps_is_as_many_as_the_epochs_are():
    assert Recipe("sgd", 0.1, 0.0, batch=10, epochs=3).steps(1001) == 301


def test_rows_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        protocol("quick").version = 2
    with pytest.raises(TypeError):
        protocol("quick").recipes["convnet"] = RECIPE


@pytest.mark.parametrize(
    "other",
    [
        replace(MINE, name="yours"),
        replace(MINE, version=2),
        replace(MINE, init="imagenet"),
        replace(MINE, recipes={"convnet": replace(RECIPE, lr=0.2)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(cutout=0.1))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(cutmix=0.1))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(dsa=DSA[:1]))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(operations=OPERATIONS[:1]))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(erasing=0.1))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(mixup=0.1))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(mixup_alpha=0.8))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, temperature_squared=True)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, milestones=(0.5,))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, nesterov=False)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, normalise="data")}),
        replace(MINE, recipes={"convnet": replace(RECIPE, new_optimizer=True)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, precision="fp32")}),
        replace(MINE, recipes={"convnet": replace(RECIPE, epochs_by_ipc=((1, 4),))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, epochs_by_classes=((2, 1, 4),))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, batch_by_ipc=((1, 4),))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, batch_by_classes=((2, 1, 4),))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, cosine_share=0.5)}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(shuffle_pieces=2))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(lighting=0.1))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, augment=Augment(mix_batch=True))}),
        replace(MINE, recipes={"convnet": replace(RECIPE, temperature=4.0)}),
        replace(MINE, teacher=("resnet18", "quick@1")),
        replace(MINE, labels="hard"),
        replace(MINE, float_images=True),
        replace(MINE, image_weights=True),
        replace(MINE, recipes={"convnet": replace(RECIPE, learned_rate=True)}),
    ],
)
def test_identity_covers_what_moves_a_number(other):
    assert other.identity("convnet") != MINE.identity("convnet")


def test_identity_ignores_what_does_not():
    assert replace(MINE, source="elsewhere").identity("convnet") == MINE.identity("convnet")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_listing_protocols_needs_no_torch():
    done = run("import sys, evaluators.protocols; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_judge_works_without_ddbench_as_its_page_says():
    page = (Path(__file__).parents[2] / "docs" / "evaluators.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = run(f"import sys; sys.modules['ddbench'] = None\n{code}")
    assert done.returncode == 0, done.stderr
    assert "\n1.0 1.0 " in done.stdout


PINS = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("title", PINS)
def test_published_rows_are_pinned(title):
    """A failure here means: put the number back, and add a version. (What is new is added to published.json.)"""
    row = protocol(title)
    assert {student: row.identity(student) for student in row.recipes} == PINS[title]


def test_defaults_that_rows_do_not_state_are_pinned():
    """They are not in a row's identity: a changed one would change published rows unseen."""
    later = {f.name: f.default for kind in (Recipe, Augment) for f in fields(kind) if "added_later" in f.metadata}
    assert later == {
        "decay_all": False, "whole_epochs": False, "milestones": (), "gamma": 0.1, "nesterov": True, "temperature": 0.0,
        "normalise": "constant", "new_optimizer": False, "precision": "auto", "learned_rate": False,
        "epochs_by_ipc": (), "tests": 0, "mix_batch": False, "lighting": 0.0, "shuffle_pieces": 0,
        "epochs_by_classes": (), "batch_by_ipc": (), "batch_by_classes": (), "cosine_share": 1.0,
        "crop_tries": 0, "dsa": (), "cutmix": 0.0, "operations": (), "operations_per_image": 1, "operation_chance": 1.0,
        "magnitude": 0.5, "magnitude_deviation": 0.0, "erasing": 0.0, "mixup": 0.0,
        "mixup_alpha": 1.0, "temperature_squared": False,
    }  # fmt: skip


def test_numbers_outside_of_rows_are_pinned():
    """They are in no row's identity either. Another number: a new VERSION, of the judge or of the corruptions."""
    strengths = (dsa.BRIGHTNESS, dsa.SATURATION, dsa.CONTRAST, dsa.SCALE, dsa.DEGREES, dsa.CROP, dsa.CUTOUT)
    assert (VERSION, MEAN, STD, GREY, strengths) == (2, 0.5, 0.25, 0.5, (1.0, 2.0, 0.5, 1.2, 15.0, 0.125, 0.5))
    assert (operations.GREY, operations.DEGREES, operations.SHEAR, operations.TRANSLATION) == (0.5, 30.0, 0.3, 0.45)
    assert (operations.FACTOR, operations.ADDITION, operations.BLUR) == (0.9, 110 / 255, 1 / 32)
    assert PUBLISHED == {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }
    assert COLOUR_WEIGHTS == (0.2175, 0.0188, 0.0045)
    assert sum(map(sum, PRINCIPAL_COLOURS)) == pytest.approx(-1.7048)
    assert (operations.ELASTIC, operations.CELLS, ERASED_AREA, ERASED_RATIO) == (0.2, 8, (0.02, 1 / 3), (0.3, 3.3))
    assert (corruptions.VERSION, corruptions.AIR, corruptions.CLOUD) == (1, 0.9, 0.95)
    assert dict(corruptions.LEVELS) == {
        "haze": (0.75, 0.55, 0.35), "cloud": (0.15, 0.3, 0.5), "noise": (0.04, 0.08, 0.12),
        "blur": (1 / 96, 1 / 48, 1 / 32), "brightness": (0.75, 0.5, 0.3), "jpeg": (50, 25, 10), "rotation": (1, 2, 3),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("brightness", 5.0), ("contrast", -0.1), ("cutout", -1.0)])
def test_impossible_augmentations_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} {value}"):
        Augment(**{name: value})
    with pytest.raises(ValueError, match=r"mixup_alpha must be above 0 and finite, not 0\.0"):
        Augment(mixup_alpha=0.0)


def test_every_published_protocol_is_pinned():
    assert set(PINS) == set(PROTOCOLS)


def test_every_student_has_a_row_for_distilled_and_for_real_images():
    for name in ("quick", "soft", "real", "real-large"):
        assert set(protocol(name).recipes) == set(STUDENTS)


def test_soft_labels_come_from_a_published_row():
    student, title = protocol("soft").teacher
    assert protocol(title).title == title
    assert student in protocol(title).recipes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "lion"}, "sgd or adamw or adam"),
        ({"normalise": "mean"}, "unknown normalise 'mean': constant or data or zca or cifar10"),
        ({"epochs_by_ipc": ((10, 5), (1, 9))}, "of 1 or more, rising"),
        ({"epochs_by_ipc": ((1, 0),)}, "of 1 or more, rising"),
        ({"batch_by_ipc": ((1, 0),)}, "batch_by_ipc must be pairs .* of 1 or more, rising"),
        ({"epochs_by_classes": ((1, 1, 1),)}, "epochs_by_classes must be triples"),
        ({"batch_by_classes": ((2, 1, 0),)}, "batch_by_classes must be triples"),
        ({"cosine_share": 1.5}, r"cosine_share 1\.5 is not in 0\.\.1"),
        ({"tests": -1}, "tests must be 0 or more, not -1"),
        ({"precision": "fp16"}, "unknown precision 'fp16': auto or fp32"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"milestones": (0.8, 0.6)}, "increasing shares"),
        ({"temperature": float("inf")}, "temperature inf is not in"),
        ({"clip": -1.0}, r"clip -1\.0 is not in 0\.\.inf"),
        ({"label_smoothing": 2.0}, r"label_smoothing 2\.0 is not in 0\.\.1"),
        ({"momentum": -1.0}, r"momentum -1\.0 is not in"),
        ({"beta2": 1.5}, r"beta2 1\.5 is not in"),
        ({"temperature": -4.0}, r"temperature -4\.0 is not in"),
        ({"max_steps": 5}, "min_steps 20 and max_steps 5"),
        ({"batch": 0}, "batch and epochs must be at least 1, not 0 and 3"),
        ({"temperature": 2.0, "label_smoothing": 0.1}, "must be 0"),
    ],
)
def test_impossible_rows_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(RECIPE, **changes)


@pytest.mark.parametrize("name", ["quick", "soft"])
def test_twins_differ_in_one_thing(name):
    own, hard, plain = protocol(name), protocol(f"{name}-hard"), protocol(f"{name}-plain")
    assert hard.recipes == own.recipes
    assert (own.labels, hard.labels, plain.labels) == ("own", "hard", "own")
    assert (hard.teacher, plain.teacher) == (None, own.teacher)
    assert {name: replace(row, augment=Augment()) for name, row in own.recipes.items()} == plain.recipes


def test_hard_labels_have_no_teacher():
    with pytest.raises(ValueError, match="leave it out"):
        replace(MINE, teacher=("resnet18", "quick@1"), labels="hard")


def test_imagenet_weights_keep_their_normalisation():
    with pytest.raises(ValueError, match="leave out normalise"):
        replace(MINE, init="imagenet", recipes={"convnet": replace(RECIPE, normalise="data")})


def test_labels_of_views_need_a_teacher_and_a_temperature():
    with pytest.raises(ValueError, match="needs a teacher, and a temperature"):
        replace(MINE, labels="views")
    with pytest.raises(ValueError, match="needs a teacher, and a temperature"):
        replace(MINE, labels="views", teacher=("resnet18", "quick@1"))
    soft = {"convnet": replace(RECIPE, temperature=20.0)}
    views = replace(MINE, labels="views", teacher=("resnet18", "quick@1"), recipes=soft)
    assert views.identity("convnet") != replace(views, labels="own").identity("convnet")
    assert views.identity("convnet") != replace(views, teacher_statistics="batch").identity("convnet")
    with pytest.raises(ValueError, match=r"unknown teacher_statistics 'batches'; did you mean 'batch'"):
        replace(views, teacher_statistics="batches")
    with pytest.raises(
        ValueError, match='teacher_statistics = "batch" needs labels = "views"; for other labels set "running"'
    ):
        replace(MINE, teacher_statistics="batch")


def test_fkds_numbers():
    recipe = protocol("fkd@1").recipe("resnet18")
    assert (recipe.steps(500), recipe.views(500, 10), recipe.views(501, 10)) == (3000, 150_000, 150_300)
    assert (recipe.temperature, recipe.augment.cutmix, recipe.augment.mix_batch) == (20.0, 1.0, True)
    assert replace(RECIPE, max_steps=0).views(100, 10) == 300
    assert (protocol("fkd@1").teacher, protocol("fkd@1").labels) == (("resnet18", "real@1"), "views")


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match="unknown init 'imagnet'; did you mean 'imagenet'"):
        replace(MINE, init="imagnet")
