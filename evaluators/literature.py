"""Training rows of the literature: DPD's release, and the ConvNet row of DSA and DM. No torch.

Facts about public code, not its text. `evaluators.protocols` registers them.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from evaluators.recipes import DSA, Augment, Protocol, Recipe

_RELEASE = Recipe(
    "sgd",
    lr=1e-2,
    weight_decay=5e-4,
    batch=16,
    epochs=1000,
    momentum=0.9,
    warmup=0.0,
    nesterov=False,
    decay_all=True,
    whole_epochs=True,
    milestones=(0.6667, 0.8333),
    gamma=0.1,
    clip=1.0,
    augment=Augment(crop_area=(0.67, 1.0), crop_ratio=(0.75, 1.3333), crop_tries=10, flip_x=0.5, flip_y=0.5),
)
_RELEASED = MappingProxyType(dict.fromkeys(("vgg16", "inception_v3", "resnet18", "densenet121"), _RELEASE))

DPD_1 = Protocol(
    name="dpd",
    version=1,
    size=256,
    init="imagenet",
    labels="hard",
    recipes=_RELEASED,
    source="""\
The evaluation of DPD's release (test.py beside arXiv:2601.15829), from facts about that code: four networks that start
from torchvision's ImageNet weights, one row for all of them; 256 px; hard labels; SGD with momentum; an epoch is every
image once, in batches of 16 of which the last is what is left; the rate falls tenfold at 66.67 and 83.33 % of all
iterations; random resized crops, flips left to right and upside down; gradients clipped at norm 1; the last network.
Ours where it is silent or differs: a crop that does not fit is drawn again up to ten times (torchvision's rule), crops
are not rounded to whole pixels and see the pixels around them at their borders, images are scaled as the ImageNet
weights were trained (Inception's: mean and deviation 0.5), and the student's seed is the suite's, the same for every
set (the release has 666 + number of the set), so that the suite's deviation over sets, with n - 1, is not the
release's, which has n and the students' too; on a GPU students train under bf16 autocast. It has never been run from
the real weights here: no machine with a network was at hand. A run of another size is warned about, not refused.""",
)

DPD_SCRATCH_1 = Protocol(
    name="dpd-scratch",
    version=1,
    size=256,
    labels="hard",
    recipes=_RELEASED,
    source="""\
dpd@1 without its ImageNet weights, number for number: this project's own, so that what pretraining is worth can be told
from what the distilled images are worth. Images are normalised by constants (mean 0.5, deviation 0.25); resnet18 has
its 3x3 stem below 96 px.""",
)

DC_1 = Protocol(
    name="dc",
    version=1,
    recipes=MappingProxyType(
        {
            "convnet": Recipe(
                "sgd",
                lr=1e-2,
                weight_decay=5e-4,
                batch=256,
                epochs=1001,
                momentum=0.9,
                warmup=0.0,
                nesterov=False,
                decay_all=True,
                whole_epochs=True,
                milestones=(502 / 1001,),
                gamma=0.1,
                augment=Augment(dsa=DSA),
            )
        }
    ),
    source="""\
How DSA, DM and their successors judge a distilled set (facts from the public code of arXiv:2006.05929 and 2102.08259):
the ConvNet from scratch, SGD with momentum, 1001 epochs of which the last 499 have a tenth of the rate, one operation
of differentiable Siamese augmentation for each batch with numbers of its own for each image (brightness 1, saturation
2, contrast 0.5, scale 1.2, 15 degrees, crop of 1/8, cutout of 1/2), the last network.
Ours where it differs: the optimizer keeps its momentum when the rate falls (there it is made anew); images are
normalised by constants (mean 0.5, deviation 0.25) and not by the data set's statistics; a distilled set is 8-bit.
For other networks the literature has no row of its own, so there is none here.""",
)

FID_1 = Protocol(
    name="fid",
    version=1,
    init="imagenet",
    judges=False,
    recipes=MappingProxyType(
        {
            # nesterov: without effect on Adam, and of the row as it was published
            "inception_v3": replace(_RELEASE, optimizer="adam", lr=1e-4, batch=32, epochs=10, nesterov=True),
        }
    ),
    source="""\
Not for judging: how the network whose features FID uses is trained on the real training split, as in DPD's release
(pretrain_inception.py beside arXiv:2601.15829), at 256 px, the network after the tenth epoch. Ours where it differs: as
in dpd@1, the rate falls at 66.67 and 83.33 % of all steps, there of the epochs; and images are scaled as the network's
ImageNet weights were trained (mean and deviation 0.5), there by ImageNet's mean and deviation.""",
)
