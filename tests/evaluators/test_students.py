"""Shapes, sizes and initialisation of the students."""

import pytest
import torch
import torchvision
from torch import nn

from evaluators.catalog import CATALOG, STUDENTS, check_size, convnet_depth, vit_patch
from evaluators.networks import build_body
from evaluators.pretrained import WEIGHTS
from evaluators.students import build, features


def images(n, size):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("size", "count"), [(32, 320_010), (64, 467_850), (128, 615_690), (224, 754_570), (256, 763_530)]
)
def test_convnet_has_the_literatures_parameters(size, count):
    assert parameters(build("convnet", size, 10, seed=0)) == count


def test_convnet_is_the_literatures_function():
    """Against the blocks written out, with instance norm in its own name."""
    model = build("convnet", 32, 10, seed=3)
    x = (images(4, 32).float() / 255 - 0.5) / 0.25
    for conv, norm, _, _ in list(model.body)[:-1]:
        x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
        x = nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5)
        x = x.relu().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = x.reshape(4, 2048) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images(4, 32)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("student", "size", "count"),
    [
        ("convnet_bn", 32, 320_010),
        ("convnet_bn", 128, 615_690),
        ("convnet6", 224, 754_570),
        ("convnet6", 64, 744_330),
        ("resnet18_in", 224, 11_181_642),  # as torchvision's resnet18 with ten classes
        ("resnet18_in", 64, 11_181_642 - (7 * 7 - 3 * 3) * 3 * 64),
        ("resnet_ap10", 224, 4_910_922),
        ("resnet_ap10", 128, 4_910_922 - (7 * 7 - 3 * 3) * 3 * 64),
    ],
)
def test_students_of_the_literature_have_their_parameters(student, size, count):
    assert parameters(build(student, size, 10, seed=0)) == count


@pytest.mark.parametrize("student", ["convnet6", "resnet18_in", "resnet_ap10"])
def test_students_with_instance_norm_have_no_running_statistics(student):
    model = build(student, 64, 3, seed=0)
    assert not any("running" in name for name in model.state_dict())
    torch.testing.assert_close(model.train()(images(3, 64)), model.eval()(images(3, 64)))


def test_the_convnet_with_batch_norm_has_running_statistics():
    names = build("convnet_bn", 32, 3, seed=0).state_dict()
    assert sum(name.endswith("running_mean") for name in names) == 3


@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 8), (65, 4), (128, 8), (129, 4), (224, 7)])
def test_resnet_ap10_pools_by_size(size, side):
    body = build("resnet_ap10", size, 3, seed=0).body
    sides = []
    body[-3].register_forward_hook(lambda *args: sides.append(args[-1].shape[-1]))
    body(torch.zeros(1, 3, size, size))
    assert sides == [side]
    assert not any(conv.stride != (1, 1) for conv in body.modules() if isinstance(conv, nn.Conv2d))


@pytest.mark.parametrize(("size", "side"), [(32, 4), (64, 8), (65, 5), (128, 8), (129, 5), (224, 7)])
def test_resnet18_in_has_stems_by_size(size, side):
    body = build("resnet18_in", size, 3, seed=0).body
    sides = []
    body.layer4.register_forward_hook(lambda *args: sides.append(args[-1].shape[-1]))
    body(torch.zeros(1, 3, size, size))
    assert sides == [side]


def test_resnet_ap10_is_the_literatures_function():
    """Against its blocks written out, with instance norm in its own name."""
    model = build("resnet_ap10", 32, 10, seed=3)

    def normed(x, norm):
        return nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5)

    conv, norm, *_ = model.body
    x = (images(4, 32).float() / 255 - 0.5) / 0.25
    x = normed(nn.functional.conv2d(x, conv.weight, padding=1), norm).relu()
    for i, block in enumerate(model.body[4:8]):
        first, norm, _, _, second, last = block.residual
        y = normed(nn.functional.conv2d(x, first.weight, padding=1), norm).relu()
        y = nn.functional.avg_pool2d(y, 2) if i else y
        y = normed(nn.functional.conv2d(y, second.weight, padding=1), last)
        if i:
            x = nn.functional.avg_pool2d(nn.functional.conv2d(x, block.shortcut[0].weight), 2)
            x = normed(x, block.shortcut[2])
        x = (x + y).relu()
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images(4, 32)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "depth"), [(8, 1), (16, 2), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5), (224, 6), (256, 6)]
)
def test_depth_by_size(size, depth):
    assert convnet_depth(size) == depth


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (224, 28), (256, 32), (100, 10), (31, 1)])
def test_patch_by_size(size, patch):
    assert vit_patch(size) == patch


def test_vit_tiny_has_deits_parameters():
    """DeiT-Ti at 224 px with patches of 16 has 5,717,416; ours differs in patch embedding and positions."""
    ours = parameters(build("vit_tiny", 64, 1000, seed=0))
    assert ours == 5_717_416 - (16 * 16 - 8 * 8) * 3 * 192 - (196 - 64) * 192


@pytest.mark.parametrize(("size", "stem", "side"), [(32, 3, 4), (64, 3, 4), (96, 7, 3), (128, 7, 4)])
def test_resnet_stem_by_size(size, stem, side):
    body = build("resnet18", size, 10, seed=0).body
    assert body.conv1.kernel_size == (stem, stem)
    seen = []
    body.layer4.register_forward_hook(lambda *args: seen.append(args[-1].shape[-1]))
    body.eval()(torch.zeros(1, 3, size, size))
    assert seen == [side]


WIDTHS = {"convnet": 2048, "resnet18": 512, "resnet34": 512, "resnet50": 2048, "vit_tiny": 192, "vit_small": 384,
          "vit_base": 768, "vgg16": 4096, "densenet121": 1024, "inception_v3": 2048, "efficientnet_b0": 1280,
          "swin_t": 768, "convnet_bn": 2048, "convnet6": 128, "resnet18_in": 512, "resnet_ap10": 512}  # fmt: skip


@pytest.mark.parametrize("student", STUDENTS)
def test_features_feed_the_head_at_the_smallest_size(student):
    size = CATALOG[student].smallest if student != "convnet" else 32
    model, batch = build(student, size, 5, seed=0), images(3, size)
    found = features(model, batch, "cpu", batch=2)
    assert found.shape == (3, WIDTHS[student])
    assert found.dtype == torch.float32
    torch.testing.assert_close(model.head(found), model(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("student", STUDENTS)
def test_one_image_alone_can_be_trained_on_at_the_smallest_size(student):
    """The last batch of an epoch may hold one image: batch norm needs more than one pixel of it."""
    model = build(student, CATALOG[student].smallest, 3, seed=0).train()
    model(images(1, CATALOG[student].smallest)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("student", ["resnet18", "resnet50"])
def test_one_image_alone_can_be_trained_on_with_the_large_stem(student):
    """What ImageNet weights are for, at the smallest size that is let through."""
    with pytest.raises(ValueError, match="at least 33 px, not 32"):
        check_size(student, 32, "imagenet")
    check_size(student, 33, "imagenet")
    build_body(student, 33, getattr(torchvision.models, student)().state_dict())[0].train()(torch.zeros(1, 3, 33, 33))


@pytest.mark.parametrize("student", [name for name in WEIGHTS if name not in ("vit_base", "inception_v3")])
def test_the_networks_are_torchvisions(student):
    assert parameters(build(student, 224, 1000, seed=0)) == WEIGHTS[student].meta["num_params"]


BIG = ("vgg16", "vit_base")
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in STUDENTS]


@pytest.mark.parametrize("student", EVERY)
def test_the_seed_decides_the_weights_and_nothing_else_moves(student):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    size = max(32, CATALOG[student].smallest)
    first, again, other = (build(student, size, 5, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_bytes_and_fractions_are_the_same_picture():
    model, batch = build("convnet", 16, 5, seed=0), images(3, 16)
    torch.testing.assert_close(model(batch), model(batch.float() / 255))


def test_unknown_student_names_the_known():
    with pytest.raises(ValueError, match=r"'convnext'; did you mean 'convnet'.*resnet18.*swin_t"):
        build("convnext", 32, 5, seed=0)


@pytest.mark.parametrize(("size", "classes", "said"), [(7, 5, "at least 8 px, not 7"), (32, 1, "two classes, not 1")])
def test_too_small_is_an_error(size, classes, said):
    with pytest.raises(ValueError, match=said):
        build("convnet", size, classes, seed=0)


@pytest.mark.parametrize(
    ("student", "size", "init", "said"),
    [
        ("inception_v3", 96, "scratch", "inception_v3 needs at least 107 px, not 96"),
        ("vit_base", 40, "imagenet", "a multiple of 16 px, not 40"),
        ("vit_small", 67, "scratch", "multiple of 8"),
    ],
)
def test_sizes_are_checked_without_building(student, size, init, said):
    with pytest.raises(ValueError, match=said):
        check_size(student, size, init)


def test_a_size_that_cannot_be_cut_into_patches_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        build("vit_tiny", 67, 3, 0)
