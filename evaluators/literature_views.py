"""Training rows of the literature whose students learn a teacher's labels of every view: SRe2L, RDED, D4M. No torch.

Facts about public code, not its text. `evaluators.protocols` registers them.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from evaluators.fields import wrap
from evaluators.recipes import Augment, Protocol, Recipe

_FKD = Recipe(
    "adamw",
    lr=1e-3,
    weight_decay=0.01,
    batch=50,
    epochs=300,
    warmup=0.0,
    whole_epochs=True,
    augment=Augment(
        crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10, flip_x=0.5, cutmix=1.0, mix_batch=True
    ),
    temperature=20.0,
    normalise="data",
)

FKD_1 = Protocol(
    name="fkd",
    version=1,
    teacher=("resnet18", "real@1"),
    labels="views",
    recipes=MappingProxyType(
        dict.fromkeys(("convnet", "convnet_bn", "resnet18", "resnet50", "efficientnet_b0"), _FKD),
    ),
    source="""\
The evaluation of SRe2L, RDED and D4M with soft labels (facts about the public code of arXiv:2306.13092, 2312.03526 and
2407.15138): 300 epochs of AdamW without warm-up, the rate falls along half a cosine; crops of 8 % of the area and more,
flips, CutMix of every batch by one square; Kullback-Leibler divergence at temperature 20, without the factor of its
square, from a teacher's probabilities of every augmented and mixed view. A set's own labels are not used.
The teacher labels the views while the student trains, as in RDED. SRe2L and D4M store the same labels of all views in
half precision beforehand; results count those bytes (label_bytes).
Ours where it differs: the teacher is a resnet18 by real@1, eight passes over this training split (there one of
published length); batches of 50, RDED's at ten images per class (there also 10 and 100; SRe2L 1024 of a thousand
classes); the cosine ends at 0 (SRe2L's; RDED's ends at half of the rate); no shuffled patches (RDED); images are
normalised by this training split's statistics (there by ImageNet's constants); the last network is tested (RDED reports
the best of the last epochs); crops and squares are not rounded to whole pixels; on a GPU students train under bf16
autocast.""",
)

_SQUEEZE = Recipe(
    "sgd",
    lr=0.1,
    weight_decay=5e-4,
    batch=128,
    epochs=200,
    momentum=0.9,
    warmup=0.0,
    nesterov=False,
    decay_all=True,
    whole_epochs=True,
    augment=Augment(flip_x=0.5, dsa=("crop",)),
    normalise="data",
    precision="fp32",
)

SQUEEZE_1 = Protocol(
    name="squeeze",
    version=1,
    labels="hard",
    recipes=MappingProxyType(dict.fromkeys(("convnet_bn", "resnet18", "resnet50"), _SQUEEZE)),
    source="""\
The training of teachers on the whole real training split, as SRe2L trains its ResNet-18 on CIFAR-100 (facts about the
public code of arXiv:2306.13092, which reaches 78.72 %): 200 epochs of SGD with momentum in batches of 128, the last of
an epoch smaller; the rate falls along half a cosine to 0; images are shifted by up to an eighth of their side and
mirrored. Below 48 px a resnet18 has the stem that it has there: 3x3, stride 1, no max-pool.
Ours where it differs: vacated pixels have the mean colour (there black); images are normalised by this split's
statistics (there by constants). From 48 to 95 px, a resnet18 has a max-pool; the public teachers of Tiny ImageNet have
none (SRe2L's are those of squeeze-tiny@1). RDED's teachers are published as weights (ResNet-18: 93.86 % on CIFAR-10,
72.27 on CIFAR-100, 61.98 on Tiny ImageNet, 90.0 on ImageNette, 75.0 on ImageWoof; ConvNets: 82.24 on CIFAR-10, 49.73 on
Tiny ImageNet, 89.6 and 67.4 on ImageNette and ImageWoof at 128 px), those of ImageNet-1k are torchvision's.
It was not run at its full length.""",
)

FKD_2 = replace(
    FKD_1,
    version=2,
    teacher=("resnet18", "squeeze@1"),
    recipes=MappingProxyType(
        dict.fromkeys(FKD_1.recipes, replace(_FKD, batch=1024, normalise="imagenet", precision="fp32"))
    ),
    source="""\
The evaluation of SRe2L and D4M with soft labels (facts about the public code of arXiv:2306.13092 and 2407.15138): 300
epochs of AdamW without warm-up in batches of 1024, the last of an epoch smaller; the rate falls along half a cosine to
0; weights of two or more dimensions decay; crops of 8 % of the area and more, flips, CutMix of every batch by one
square; ImageNet's constants; Kullback-Leibler divergence at temperature 20, without the factor of its square, from a
teacher's probabilities of every augmented and mixed view. A set's own labels are not used. The teacher labels the views
while the student trains; there they are stored in half precision beforehand, and results count those bytes
(label_bytes). Batches of 1024 are for sets of a thousand classes: a small set is one step an epoch (rded@1 is for
those).
Ours where it differs: the teacher is a resnet18 by squeeze@1 (there torchvision's, for ImageNet-1k); the rate falls at
every step, there after every epoch; batches are not cut in two (there batch norm sees 512 images); crops and squares
are not rounded to whole pixels; no TF32 on a GPU. It was not run at its full size.""",
)

SRE2L_CIFAR_1 = Protocol(
    name="sre2l-cifar",
    version=1,
    teacher=("resnet18", "squeeze@1"),
    labels="views",
    teacher_statistics="batch",
    recipes=MappingProxyType(
        {
            "resnet18": Recipe(
                "adamw",
                lr=1e-3,
                weight_decay=0.01,
                batch=128,
                epochs=400,
                warmup=0.0,
                decay_all=True,
                whole_epochs=True,
                augment=Augment(flip_x=0.5, dsa=("crop",), mixup=1.0, mixup_alpha=0.8, mix_batch=True),
                temperature=30.0,
                normalise="cifar10",
                precision="fp32",
            )
        }
    ),
    source="""\
The evaluation of SRe2L on CIFAR-100 (facts about the public code of arXiv:2306.13092, relabel_cifar.py): 400 epochs of
AdamW without warm-up in batches of 128, the last of an epoch smaller; the rate falls along half a cosine to 0; every
weight decays; images are shifted by up to an eighth of their side and mirrored; mixup of every batch by one share from
Beta(0.8, 0.8); CIFAR-10's constants, on CIFAR-100 too; Kullback-Leibler divergence at temperature 30, without the
factor of its square, from a teacher's probabilities of every augmented and mixed view. The teacher's batch norms take
the statistics of each batch of views, because that code leaves the teacher in training mode. The last network is
tested. A set's own labels are not used.
Ours where it differs: vacated pixels have the mean colour (there black); the rate falls at every step, there after
every epoch; no TF32 on a GPU. It was not run at its full length.""",
)

# torchvision's reference training, as SRe2L has it for Tiny ImageNet
_TINY = Recipe(
    "sgd",
    lr=0.2,
    weight_decay=1e-4,
    batch=256,
    epochs=50,
    momentum=0.9,
    warmup=5 / 50,
    nesterov=False,
    decay_all=True,
    whole_epochs=True,
    augment=Augment(crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10, flip_x=0.5),
    normalise="data",
    precision="fp32",
)
_TINY_DIFFERS = """\
Ours where it differs: the statistics are those of this training split (there constants of the same kind: mean 0.4802,
0.4481, 0.3975, deviation 0.2302, 0.2265, 0.2262); the rate rises from 0 (there from 1 %) and changes at every step,
there after every epoch; at 64 px a resnet18 has a max-pool (there none); no TF32 on a GPU. It was not run at its full
length."""

SQUEEZE_TINY_1 = Protocol(
    name="squeeze-tiny",
    version=1,
    labels="hard",
    recipes=MappingProxyType(dict.fromkeys(("resnet18", "resnet50"), _TINY)),
    source="""\
The training of teachers on the whole real training split, as SRe2L trains them on Tiny ImageNet (facts about the public
code zeyuanyin/tiny-imagenet, which reaches 59.57 % with a ResNet-18, 62.77 with a ResNet-50): 50 epochs of SGD with
momentum in batches of 256, the last of an epoch smaller; the rate rises for 5 epochs, then falls along half a cosine to
0; every weight decays; crops of 8 % of the area and more, flips.
"""
    + _TINY_DIFFERS,
)

SRE2L_TINY_1 = Protocol(
    name="sre2l-tiny",
    version=1,
    teacher=("resnet18", "squeeze-tiny@1"),
    labels="views",
    recipes=MappingProxyType(
        dict.fromkeys(
            ("resnet18", "resnet50"),
            replace(_TINY, epochs=100, warmup=5 / 100, temperature=20.0, temperature_squared=True),
        )
    ),
    source="""\
The evaluation of SRe2L on Tiny ImageNet (facts about train_kd.py of the public code zeyuanyin/tiny-imagenet):
squeeze-tiny@1 in 100 epochs, 5 of which raise the rate, with Kullback-Leibler divergence at temperature 20, times 400,
from a teacher's probabilities of every augmented view. No mixing. The last network is tested; that is what the paper
reports (41.11 and 49.64 % in the logs, at 50 and 100 images per class). A set's own labels are not used.
"""
    + _TINY_DIFFERS,
)

_RDED = Recipe(
    "adamw",
    lr=1e-3,
    weight_decay=0.01,
    batch=100,
    epochs=300,
    warmup=0.0,
    whole_epochs=True,
    augment=Augment(flip_x=0.5, cutmix=1.0, mix_batch=True),
    temperature=20.0,
    normalise="imagenet",
    precision="fp32",
    tests=30,
    batch_by_ipc=((1, 10), (10, 50)),
    batch_by_classes=(
        (100, 1, 20), (100, 10, 100), (100, 0, 200), (200, 0, 100), (1000, 1, 20), (1000, 10, 100), (1000, 0, 200),
    ),
    cosine_share=0.5,
)  # fmt: skip
_PIECES = Augment(
    shuffle_pieces=2, crop_area=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10, flip_x=0.5, cutmix=1.0,
    mix_batch=True,
)  # fmt: skip
_RDED_ROW = """\
The evaluation of RDED{use} (facts about the public code of arXiv:2312.03526): 300 epochs of AdamW without warm-up; the
rate falls along the first half of half a cosine, to half of it; batches of 10 at one image per class, 50 up to 10, else
100 (100 and 1000 classes: twice as many; 200 classes: always 100), the last of an epoch smaller; {views}, flips, CutMix
of every batch by one square; ImageNet's constants for every dataset; Kullback-Leibler divergence at temperature 20,
without the factor of its square, from the probabilities that {teacher}
gives every augmented and mixed view while the student trains. A set's own labels are not used. The last network is
tested. The paper reports the best of the last epochs on the test images: it is stored as best_on_test, from tests every
tenth epoch, and stands in no table.
"""
_RDED_DIFFERS = """\
Ours where it differs: the teacher (there published weights); only 1, 10 and 50 images per class have a batch there; the
rate falls at every step, there after every epoch; the student's batch norm sees each batch once (there twice, the first
time without a gradient); squares are not rounded to whole pixels; no TF32 on a GPU. It was not run at its full
size. {more}"""
_WHOLE = "no crops, because below 128 px an image is one piece"
_TILED = "the four pieces of an image are exchanged by columns and rows; crops of half of the area and more"


def _rded_source(use: str, views: str, teacher: str, more: str = "") -> str:
    """Return the source of a row of RDED; more: a last sentence."""
    row = _RDED_ROW.format(use=use, views=views, teacher=f"a {teacher} by squeeze@1")
    return wrap(row, _RDED_DIFFERS.format(more=more))


RDED_1 = replace(
    FKD_1,
    name="rded",
    version=1,
    teacher=("resnet18", "squeeze@1"),
    recipes=MappingProxyType(
        {"resnet18": _RDED, "resnet50": _RDED, "convnet_bn": _RDED, "efficientnet_b0": replace(_RDED, lr=2e-3)}
    ),
    source=_rded_source(" below 128 px", _WHOLE, "resnet18"),
)

RDED_224_1 = replace(
    RDED_1,
    name="rded-224",
    size=224,
    recipes=MappingProxyType({name: replace(row, augment=_PIECES) for name, row in RDED_1.recipes.items()}),
    source=_rded_source(" at 224 px, also of VLCP on ImageNet-1k", _TILED, "resnet18"),
)

RDED_CONVNET_1 = replace(
    RDED_1,
    name="rded-convnet",
    teacher=("convnet_bn", "squeeze@1"),
    recipes=MappingProxyType({"convnet_bn": _RDED}),
    source=_rded_source(
        " for ConvNets below 128 px", _WHOLE, "convnet_bn", "CIFAR-100 has batches of 25 and the rate 2e-3 there."
    ),
)

RDED_CONVNET_128_1 = replace(
    RDED_CONVNET_1,
    name="rded-convnet-128",
    size=128,
    recipes=MappingProxyType({"convnet_bn": replace(_RDED, augment=_PIECES)}),
    source=_rded_source(" for ConvNets at 128 px", _TILED, "convnet_bn"),
)
