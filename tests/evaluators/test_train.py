"""Training: what is learnt, what repeats, what is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from evaluators import augment, batches, compilation, dsa, targets, train
from evaluators.accuracy import evaluate
from evaluators.catalog import STUDENTS
from evaluators.normalisation import normalisation_of
from evaluators.recipes import Augment, Protocol, Recipe
from evaluators.seeds import generator
from evaluators.train import DivergedError, train_student

FLIPS = Augment(crop_area=(0.6, 1.0), flip_x=0.5, flip_y=0.5, transpose=0.5)
SHORT = Recipe("adamw", lr=2e-3, weight_decay=0.01, batch=16, epochs=1, min_steps=30, max_steps=30, augment=FLIPS)


def short(**changes):
    return Protocol("short", 1, {name: replace(SHORT, **changes) for name in STUDENTS}, source="this test")


def stripes(per_class, seed=0, size=16):
    """Three classes told apart by the period of their stripes; direction, colour and noise say nothing."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    wave = torch.cos(2 * torch.pi * torch.arange(size) / torch.tensor([2, 4, 8])[labels, None])
    images = wave[:, None, None, :].expand(-1, 3, size, -1)
    images = images * (0.4 + 0.6 * torch.rand(len(labels), 3, 1, 1, generator=draw))
    turned = torch.rand(len(labels), 1, 1, 1, generator=draw) < 0.5
    images = torch.where(turned, images.transpose(2, 3), images)
    images = 128 + 80 * images + 10 * torch.randn(images.shape, generator=draw)
    return images.clamp(0, 255).byte(), labels


def fit(images, labels, student="convnet", protocol=None, seed=0, **options):
    protocol = protocol or short()
    return train_student(
        images, labels, student=student, protocol=protocol, num_classes=3, seed=seed, device="cpu", **options
    )


def accuracy(model, images, labels):
    return evaluate(model, images, labels, num_classes=3, device="cpu").overall


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("student", ["convnet", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_separable_toy_is_learnt(student):
    model = fit(*stripes(20), student)
    assert not model.training
    assert accuracy(model, *stripes(30, seed=1)) == 1.0


def test_shuffled_labels_reach_chance():
    images, _ = stripes(15)
    labels = torch.arange(45) % 3  # each kind of stripe carries each label five times
    reached = [accuracy(fit(images, labels, seed=seed), *stripes(40, seed=1)) for seed in range(3)]
    assert 0.2 < sum(reached) / 3 < 0.47


@pytest.mark.parametrize("student", ["convnet", "resnet18", "vit_tiny"])
def test_same_seed_same_weights_other_seed_others(student):
    few = short(min_steps=2, max_steps=2, batch=6)
    state = torch.random.get_rng_state()
    first, again, other = (fit(*stripes(4), student, few, seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_order_of_the_same_images_is_the_same_to_rounding():
    """Where a batch is the whole set; of smaller ones it is another draw, as another seed is."""
    images, labels = stripes(6)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    whole = short(optimizer="sgd", lr=0.01, whole_epochs=True, batch=18, epochs=20, augment=Augment())
    one, other = fit(images, labels, protocol=whole), fit(images[order], labels[order], protocol=whole)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert accuracy(one, *stripes(30, seed=1)) == accuracy(other, *stripes(30, seed=1))


def test_the_images_are_left_alone():
    images, labels = stripes(4)
    before = images.clone(), labels.clone()
    fit(images, labels, protocol=short(min_steps=2, max_steps=2))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_one_image_per_class_is_enough():
    images, labels = stripes(1)
    model = fit(images, labels, "resnet18", short(min_steps=3, max_steps=3))
    assert torch.isfinite(model(images)).all()


def test_batches_visit_every_image_equally_often():
    index = batches.indices(10, SHORT, torch.Generator().manual_seed(0))
    seen = torch.cat([next(index) for _ in range(5)])
    assert torch.equal(torch.bincount(seen), torch.full((10,), 8))
    assert [sorted(part.tolist()) for part in seen.split(10)] == [list(range(10))] * 8


def test_whole_epochs_end_with_what_is_left():
    index = batches.indices(10, replace(SHORT, batch=4, whole_epochs=True), torch.Generator().manual_seed(0))
    seen = [next(index) for _ in range(9)]
    assert [len(part) for part in seen] == [4, 4, 2] * 3
    epochs = [torch.cat(seen[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1]


def test_batch_and_epochs_follow_the_images_per_class():
    row, totals = short(
        whole_epochs=True, epochs_by_classes=((3, 2, 2), (3, 0, 5)), batch_by_ipc=((2, 4),),
        augment=Augment(shuffle_pieces=2),
    ), []  # fmt: skip
    for per_class in (2, 3):
        fit(*stripes(per_class), protocol=row, progress=lambda steps, desc, total: totals.append(total) or steps)
    assert totals == [2 * 2, 5 * 1]  # batches of 4 and 2, of 9


def test_the_released_row_is_torchs_multistep():
    """Epochs of three batches against SGD and MultiStepLR on the same batches: the momentum outlives the drops."""
    recipe = Recipe("sgd", lr=0.05, weight_decay=0.1, batch=4, epochs=3, momentum=0.9, warmup=0.0, nesterov=False,
                    decay_all=True, whole_epochs=True, milestones=(0.34, 0.67), clip=1.0)  # fmt: skip
    images, labels = stripes(3)
    got = fit(images, labels, protocol=Protocol("steps", 1, {"convnet": recipe}, source="this test"), seed=7)

    model = train.build("convnet", 16, 3, train.seed_of(7, "weights"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    for (x, y), _ in zip(batches.batches(images, labels, recipe, 7), range(9), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    for key, value in got.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_a_new_optimizer_begins_at_each_milestone():
    """Epochs of three batches against a new SGD per phase on the same batches, as DC's public code has it."""
    recipe = Recipe("sgd", lr=0.05, weight_decay=0.1, batch=4, epochs=3, momentum=0.9, warmup=0.0, nesterov=False,
                    decay_all=True, whole_epochs=True, milestones=(0.34, 0.67), new_optimizer=True)  # fmt: skip
    images, labels = stripes(3)
    got = fit(images, labels, protocol=Protocol("steps", 1, {"convnet": recipe}, source="this test"), seed=7)

    model = train.build("convnet", 16, 3, train.seed_of(7, "weights"))
    stream = batches.batches(images, labels, recipe, 7)
    for rate in (0.05, 0.005, 0.0005):
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=0.1)
        for _, (x, y) in zip(range(3), stream, strict=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    for key, value in got.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_statistics_of_the_real_images_are_the_students():
    images, labels = stripes(4)
    few = short(min_steps=2, max_steps=2, normalise="data", augment=Augment(dsa=("cutout",)))
    data = normalisation_of(images // 2, "data")
    model = fit(images, labels, protocol=few, normalisation=data)
    assert torch.equal(model.mean, data.mean)
    assert torch.equal(model.std, data.std)
    with pytest.raises(ValueError, match="the recipe normalises by 'data', the normalisation is 'constant'"):
        fit(images, labels, protocol=few)
    batch, _ = next(batches.batches(images, labels, few.recipe("convnet"), 0, normalisation=data))
    holes = (batch - data.mean).abs().amax(1) < 1e-6  # DSA fills with 0 of normalised images: the mean colour
    assert holes.flatten(1).any(1).all()


FEW = {"min_steps": 3, "max_steps": 3}


def test_float_images_are_trained_on_as_they_are():
    """Grey values / 255 train the same student as uint8; values beyond 0..1 reach it; only if the row says so."""
    images, labels = stripes(4)
    row = replace(short(**FEW), float_images=True)
    assert same(fit(images, labels, protocol=row), fit(images.float() / 255, labels, protocol=row))
    batch, _ = next(batches.batches(images.float() / 100, labels, replace(SHORT, augment=Augment()), 0))
    assert batch.max() > 1.5
    with pytest.raises(ValueError, match=r"images must be uint8 .* not torch\.float32"):
        fit(images.float() / 255, labels, protocol=short(**FEW))
    with pytest.raises(ValueError, match="float images must be finite"):
        fit(images / torch.zeros(1), labels, protocol=row)


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.1}, {"augment": Augment(cutmix=1.0)}])
def test_weights_multiply_the_losses_of_images(changes):
    """The loss is the mean of w_i / mean(w) times each image's loss; the ratios of the weights alone count."""
    images, labels = stripes(4)
    row = replace(short(**{**FEW, **changes}), image_weights=True)
    w = torch.arange(1.0, 13.0)
    recipe = row.recipe("convnet")
    dense = targets.prepare_targets(labels, recipe, 3)
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    by_image = nn.functional.cross_entropy(outputs, dense, label_smoothing=recipe.label_smoothing, reduction="none")
    loss = nn.functional.cross_entropy(outputs, targets.weigh(dense, w, recipe, 3))
    torch.testing.assert_close(loss, (w / w.mean() * by_image).mean())
    students = [fit(images, labels, protocol=row, weights=given) for given in (w, 2 * w, torch.ones(12))]
    assert same(students[0], students[1])
    assert not same(students[0], students[2])


def test_an_image_of_weight_0_teaches_nothing():
    """Wrong labels of no weight leave the student as accurate; with weight they do not."""
    images, labels = stripes(20)
    wrong = torch.cat([labels, (labels + 1) % 3, (labels + 2) % 3])
    row = replace(short(), image_weights=True)
    w = torch.cat([torch.ones(60), torch.zeros(120)])
    assert accuracy(fit(images.repeat(3, 1, 1, 1), wrong, protocol=row, weights=w), *stripes(30, seed=1)) > 0.9
    assert accuracy(fit(images.repeat(3, 1, 1, 1), wrong, protocol=row), *stripes(30, seed=1)) < 0.7


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (torch.ones(11), r"float32 \(12,\), not torch\.float32 \(11,\)"),
        (torch.ones(12).double(), "not torch.float64"),
        (-torch.ones(12), "the weight of image 0 is -1.0"),
        (torch.full((12,), torch.nan), "the weight of image 0 is nan"),
        (torch.zeros(12), "all weights are 0"),
    ],
)
def test_weights_that_are_none_are_refused(weights, reason):
    with pytest.raises(ValueError, match=reason):
        fit(*stripes(4), protocol=replace(short(**FEW), image_weights=True), weights=weights)
    with pytest.raises(ValueError, match="short@1 has no image_weights"):
        fit(*stripes(4), protocol=short(**FEW), weights=torch.ones(12))


@pytest.mark.parametrize("operation", ["color", "flip", "cutout"])
def test_whitened_training_is_training_on_whitened_images(operation):
    """MTT's public code whitens both sides first: a body that sees them so, DSA on whitened images; tested alike."""
    images, labels = stripes(12)
    recipe = replace(SHORT, **FEW, optimizer="sgd", lr=0.05, normalise="zca", augment=Augment(dsa=(operation,)))
    row = Protocol("white", 1, {"convnet": recipe}, source="this test")
    zca = normalisation_of(images, "zca")
    ours = fit(images, labels, protocol=row, normalisation=zca)

    white = zca.apply(images)
    model = train.build("convnet", 16, 3, train.seed_of(0, "weights"))
    optimizer, numbers = train._make_optimizer(model, recipe), augment.make_generators(0)
    indices = batches.indices(len(images), recipe, generator(0, "order"))
    for step, index in zip(range(3), indices, strict=False):
        draw = augment.draw(len(index), recipe.augment, numbers)
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(recipe, step, 3)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.head(model.body(dsa.apply(white[index], draw.dsa))), labels[index]).backward()
        optimizer.step()
    tests, _ = stripes(5, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(tests), model.head(model.body(zca.apply(tests))), atol=1e-3, rtol=1e-2)
        assert (ours(tests) - ours(images[:1])).abs().max() > 0.05


def test_a_learned_rate_must_be_given():
    with pytest.raises(ValueError, match=r"takes a set's learned rate: pass protocol\.at_rate"):
        fit(*stripes(4), protocol=short(**FEW, learned_rate=True))
    rate = short(**FEW, learned_rate=True).at_rate("convnet", 2e-3)
    assert same(fit(*stripes(4), protocol=rate), fit(*stripes(4), protocol=short(**FEW)))


@pytest.mark.parametrize("student", ["convnet", "convnet_bn"])
def test_tests_during_training_are_even_and_change_nothing(student):
    images, labels = stripes(4)
    few, seen = short(min_steps=12, max_steps=12, tests=4), []

    def observe(network):
        assert not network.training
        seen.append(accuracy(network, *stripes(5, seed=1)))

    watched = fit(images, labels, student, few, observe=observe)
    assert len(seen) == 4
    assert same(watched, fit(images, labels, student, short(min_steps=12, max_steps=12)))
    assert seen[-1] == accuracy(watched, *stripes(5, seed=1))


def test_a_teachers_labels_of_every_view_replace_the_targets():
    """Against the loop written out: the teacher sees each augmented, mixed batch; both sides are softened."""
    images, labels = stripes(4)
    recipe = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=6, epochs=3, momentum=0.0, warmup=0.0, nesterov=False,
                    whole_epochs=True, temperature=4.0, augment=replace(FLIPS, cutmix=1.0, mix_batch=True))  # fmt: skip
    views = Protocol("views", 1, {"convnet": recipe}, "this test", teacher=("resnet18", "quick@1"), labels="views")
    teacher = train.build("convnet_bn", 16, 3, 5).train()
    statistics = teacher.state_dict()["body.0.1.running_mean"].clone()
    got = fit(images, labels, protocol=views, seed=7, teacher=teacher)
    assert torch.equal(teacher.state_dict()["body.0.1.running_mean"], statistics)

    model = train.build("convnet", 16, 3, train.seed_of(7, "weights"))
    stream = batches.batches(images, train.prepare_targets(labels, recipe, 3), recipe, 7)
    for step, (x, _) in zip(range(6), stream, strict=False):
        expected = (teacher(x).detach() / 4).softmax(1)
        log_p = (model(x) / 4).log_softmax(1)
        model.zero_grad()
        (expected * (expected.log() - log_p)).sum(1).mean().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= train.learning_rate(recipe, step, 6) * weight.grad
    for key, value in got.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="views@1 has labels 'views'"):
        fit(images, labels, protocol=views)
    with pytest.raises(ValueError, match="a teacher of views is needed for 'views' only"):
        fit(images, labels, teacher=teacher)


def test_a_teacher_may_normalise_each_batch_by_itself():
    """As a teacher in training mode labels views, which the public code of SRe2L for CIFAR does; it is left alone."""
    images, labels = stripes(4)
    teacher, seen = train.build("convnet_bn", 16, 3, 5), []
    for norm in (m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(3.0)
    before = {name: part.clone() for name, part in teacher.state_dict().items()}
    labeller = train.prepare_teacher(teacher, "batch").eval()
    x = images.float() / 255
    recipe = replace(SHORT, temperature=4.0)
    ours, running = (train.view_labels(network.eval(), x, recipe) for network in (labeller, teacher))
    assert all(torch.equal(part, before[name]) for name, part in teacher.state_dict().items())
    expected = (teacher.train()(x).detach() / 4).softmax(1)  # moves its running statistics
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(running, expected, atol=1e-3)
    teacher.load_state_dict(before)

    views = Protocol("views", 1, {"convnet": replace(recipe, min_steps=3, max_steps=3)}, "this test", labels="views",
                     teacher=("resnet18", "quick@1"))  # fmt: skip
    for protocol in (views, replace(views, teacher_statistics="batch")):
        weights = fit(images, labels, protocol=protocol, teacher=teacher).state_dict()["head.weight"]
        seen.append(weights)
        assert all(torch.equal(part, before[name]) for name, part in teacher.state_dict().items())
    assert not torch.equal(*seen)


def test_precision_is_the_devices_unless_the_recipe_says():
    names = [train.precision(recipe, kind) for recipe in (SHORT, replace(SHORT, precision="fp32"))
             for kind in ("cpu", "cuda")]  # fmt: skip
    assert names == ["fp32", "bf16", "fp32", "fp32"]


def test_dropout_draws_from_the_seed_and_leaves_the_global_state():
    few = short(min_steps=2, max_steps=2, batch=6)
    images, labels = stripes(4, size=36)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = fit(images, labels, "efficientnet_b0", few)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, fit(images, labels, "efficientnet_b0", few))


def soft(labels, sure=0.8):
    """Probabilities: `sure` for the label, the rest shared by the others."""
    return nn.functional.one_hot(labels, 3) * (sure - (1 - sure) / 2) + (1 - sure) / 2


def test_hard_labels_as_probabilities_train_the_same_network():
    images, labels = stripes(4)
    few = short(min_steps=3, max_steps=3)
    hard = fit(images, labels, protocol=few).state_dict()
    rows = fit(images, nn.functional.one_hot(labels, 3).float(), protocol=few).state_dict()
    for key, value in hard.items():
        torch.testing.assert_close(rows[key], value, atol=1e-5, rtol=1e-4)


def test_a_temperature_is_distillations_loss():
    """KL(softmax(log q / T) || softmax(z / T)), mean over images, written out."""
    recipe = replace(SHORT, temperature=4.0)
    targets = soft(torch.tensor([0, 1, 2, 2]))
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    q = targets ** (1 / 4)
    q = q / q.sum(1, keepdim=True)
    p = torch.exp(logits / 4) / torch.exp(logits / 4).sum(1, keepdim=True)
    expected = (q * (q / p).log()).sum(1).mean()
    torch.testing.assert_close(train._loss(logits, train.prepare_targets(targets, recipe, 3), recipe), expected)
    squared = replace(recipe, temperature_squared=True)
    torch.testing.assert_close(train._loss(logits, train.prepare_targets(targets, squared, 3), squared), 16 * expected)


def test_a_temperature_leaves_certain_labels_certain():
    certain = torch.eye(3)
    recipe = replace(SHORT, temperature=4.0)
    assert torch.equal(train.prepare_targets(certain, recipe, 3), certain)
    assert torch.equal(train.prepare_targets(torch.tensor([2, 0]), recipe, 3), certain[[2, 0]])


STRONG = replace(FLIPS, mixup=0.3, operations=("rotate", "sharpness", "posterize", "autocontrast"), erasing=0.25)


@pytest.mark.parametrize(
    "changes", [{"temperature": 4.0}, {"augment": replace(FLIPS, cutmix=0.5)}, {"augment": STRONG}]
)
@pytest.mark.parametrize("targets", [pytest.param(soft, marks=pytest.mark.slow), lambda labels: labels])
def test_a_separable_toy_is_learnt_from_softened_labels(changes, targets):
    images, labels = stripes(20)
    model = fit(images, targets(labels), protocol=short(min_steps=60, max_steps=60, **changes))
    assert accuracy(model, *stripes(30, seed=1)) > 0.95


SURE = soft(torch.arange(3).repeat_interleave(2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (SURE[:5], r"float32 \(6, 3\), not torch.float32 \(5, 3\)"),
        (SURE.double(), "not torch.float64"),
        (SURE.index_fill(0, torch.tensor(4), float("nan")), "image 4 are not probabilities"),
        (SURE.index_fill(0, torch.tensor(1), float("inf")), "image 1 are not probabilities"),
        (SURE - torch.eye(3)[0], "image 0 are not probabilities"),
        (2 * SURE, "image 0 are not probabilities"),
    ],
)
def test_soft_labels_that_are_off_are_refused_before_training(labels, message):
    with pytest.raises(ValueError, match=message):
        fit(*(stripes(2)[0], labels))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_training_is_the_same_to_rounding():
    images, labels = stripes(4)
    few = short(optimizer="sgd", lr=0.02, min_steps=4, max_steps=4)  # AdamW makes steps of gradients that are rounding
    plain = fit(images, labels, protocol=few)
    fast = fit(images, labels, protocol=few, compiled=True)
    assert type(fast) is type(plain)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[key], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_compiled_dropout_draws_as_without():
    drop, images = torch.nn.Dropout(0.5), torch.ones(64)
    with train.seeded_dropout(3, "cpu"):
        expected = drop(images)
    with train.seeded_dropout(3, "cpu"), compilation.compiler_fallback():
        assert torch.equal(torch.compile(drop)(images), expected)


def test_soft_labels_are_not_smoothed():
    images, labels = stripes(4)
    soft = torch.full((12, 3), 0.1).scatter_(1, labels[:, None], 0.8)
    few = {"min_steps": 3, "max_steps": 3, "batch": 6}
    smoothed, plain = (fit(images, soft, protocol=short(label_smoothing=s, **few)) for s in (0.3, 0.0))
    assert same(smoothed, plain)
    smoothed, plain = (fit(images, labels, protocol=short(label_smoothing=s, **few)) for s in (0.3, 0.0))
    assert not same(smoothed, plain)


def test_sgd_and_its_schedule_are_torchs():
    """A few steps against torch's SGD and LambdaLR on the same batches, decay on matrices only."""
    recipe = replace(
        SHORT, optimizer="sgd", lr=0.1, weight_decay=0.1, clip=0.5, label_smoothing=0.1, min_steps=4, max_steps=4
    )
    images, labels = stripes(4)
    got = fit(images, labels, protocol=Protocol("sgd", 1, {"convnet": recipe}, source="this test"), seed=7)

    model = train.build("convnet", 16, 3, train.seed_of(7, "weights")).to(memory_format=torch.channels_last)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: train.learning_rate(recipe, min(step, 3), 4))
    for (x, y), _ in zip(batches.batches(images, labels, recipe, 7), range(4), strict=False):
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)(model(x.contiguous(memory_format=torch.channels_last)), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    for key, value in got.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [train.learning_rate(replace(SHORT, lr=2.0, warmup=0.2), step, 1000) for step in range(1000)]
    assert rates[:200] == sorted(rates[:200])
    assert rates[200:] == sorted(rates[200:], reverse=True)
    assert max(rates) == pytest.approx(2.0, rel=1e-4)
    assert rates[599] == pytest.approx(1.0, abs=3e-3)
    assert rates[0] < 0.01
    assert rates[-1] < 1e-5


def test_progress_sees_every_step():
    seen = []

    def progress(steps, desc, total):
        for step in steps:
            seen.append((desc, total))
            yield step

    fit(*stripes(2), protocol=short(min_steps=3, max_steps=3), progress=progress)
    assert seen == [("training convnet", 3)] * 3


def test_divergence_names_the_first_bad_step():
    with pytest.raises(DivergedError, match="not finite at step") as caught:
        fit(*stripes(4), protocol=short(optimizer="sgd", lr=1e30, warmup=0.0, clip=0.0))
    assert 1 <= caught.value.step < 30


def test_a_divergence_in_the_last_update_is_found():
    """Its loss is never computed: what the network says of an image tells."""
    last = short(optimizer="sgd", lr=1e38, warmup=0.0, clip=0.0, min_steps=1, max_steps=1)
    model = fit(*stripes(4), protocol=last)
    with pytest.raises(DivergedError, match="the network's output is not finite"):
        accuracy(model, *stripes(4))
    with pytest.raises(DivergedError):
        train.probabilities(model, stripes(4)[0], "cpu")


def test_the_first_bad_step_is_found_wherever_the_check_falls():
    train._require_finite([torch.tensor(1.0)] * 3, 40)
    with pytest.raises(DivergedError) as caught:
        train._require_finite([torch.tensor(v) for v in (1.0, float("inf"), float("nan"))], 40)
    assert caught.value.step == 41


IMAGES, LABELS = stripes(2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:0], LABELS[:0], "no image"),
        (IMAGES.float(), LABELS, "uint8.*float32"),
        (IMAGES[:, :1], LABELS, r"\(n, 3, size, size\).*\(6, 1, 16, 16\)"),
        (IMAGES[..., :8], LABELS, r"\(6, 3, 16, 8\)"),
        (IMAGES, LABELS[:5], r"int64 \(6,\).*\(5,\)"),
        (IMAGES, LABELS.float(), "int64.*float32"),
        (IMAGES, LABELS + 1, r"label 3 is outside the classes 0\.\.2"),
        (IMAGES, LABELS - 1, "label -1 is outside"),
        (IMAGES[:4], LABELS[:4], "no image of class 2"),
    ],
)
def test_bad_input_is_refused_before_training(images, labels, message):
    with pytest.raises(ValueError, match=message):
        fit(images, labels)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"quikc.*did you mean 'quick@1'"):
        fit(IMAGES, LABELS, protocol="quikc")
    with pytest.raises(ValueError, match=r"resnet81.*did you mean 'resnet18'"):
        fit(IMAGES, LABELS, student="resnet81")


@pytest.mark.slow
def test_without_a_compiler_a_line_says_so_and_it_runs(tmp_path):
    code = """
import torch
from evaluators.compilation import compiler_fallback
double = torch.compile(lambda x: (2 * x).relu().sum())
with compiler_fallback():
    print(float(double(torch.ones(8, 8))))
"""
    env = os.environ | {"CXX": "/nowhere", "PATH": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) == 128
    (line,) = done.stderr.splitlines()
    assert "not compiled, so it runs uncompiled" in line
    assert "No working C++ compiler" in line


WHOLE_EPOCHS = {"optimizer": "sgd", "batch": 4, "whole_epochs": True, "epochs": 6}


class Memory:
    """A state in memory that stops the training at its first save."""

    def __init__(self):
        self.step, self.tensors, self.stop = 0, {}, True

    def load(self):
        return self.step, self.tensors

    def save(self, step, tensors):
        self.step, self.tensors = step, {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        if self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("student", "changes"),
    [
        ("convnet", {}),
        ("convnet", WHOLE_EPOCHS),
        ("convnet", WHOLE_EPOCHS | {"momentum": 0.9, "milestones": (2 / 3,), "new_optimizer": True}),  # anew at step 20
        *(
            pytest.param(student, changes | {"min_steps": 22, "max_steps": 22}, marks=pytest.mark.slow)
            for student, changes in (("resnet18", {"momentum": 0.9, "batch": 4}), ("swin_t", {"batch": 2}))
        ),
    ],
)
def test_a_training_that_was_stopped_continues_to_the_same_weights(student, changes):
    """Batch norms, moments, draws and stochastic depth included; only the state is left of the first process."""
    images, labels = stripes(6, size=32 if student == "swin_t" else 16)
    options = {"student": student, "protocol": short(**changes)}
    whole, state = fit(images, labels, **options).state_dict(), Memory()
    with pytest.raises(KeyboardInterrupt):
        fit(images, labels, state=state, **options)
    state.stop, first, torch_state = False, state.step, torch.get_rng_state()
    resumed = fit(images, labels, state=state, **options).state_dict()
    assert first == train.CHECK_EVERY
    assert torch.equal(torch_state, torch.get_rng_state())
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_state_is_saved_after_the_observation_of_its_step():
    """So a training that goes on from it observes every step once."""
    images, labels = stripes(6)
    seen = {"whole": [], "halves": []}
    options = {"protocol": short(min_steps=33, max_steps=33, tests=6)}  # after 5, 10, .. 30

    def observe_into(name):
        return lambda network: seen[name].append(network.head.weight.sum().item())

    fit(images, labels, observe=observe_into("whole"), **options)
    state = Memory()
    with pytest.raises(KeyboardInterrupt):
        fit(images, labels, state=state, observe=observe_into("halves"), **options)
    assert seen["halves"] == seen["whole"][:4]  # the save after step 20 stopped it
    state.stop = False
    fit(images, labels, state=state, observe=observe_into("halves"), **options)
    assert len(seen["whole"]) == 6
    assert seen["halves"] == seen["whole"]
