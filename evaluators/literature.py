"""Training rows of the literature with labels of the set: DPD's release, DC and its successors, IDC. No torch.

Facts about public code, not its text. `evaluators.protocols` registers them.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from evaluators.fields import wrap
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
The evaluation of DPD's release (facts about test.py beside arXiv:2601.15829). Four networks start from torchvision's
ImageNet weights and share one recipe: 256 px; hard labels; SGD with momentum; an epoch is every image once, in batches
of 16, the last of which is what is left; the rate falls tenfold at 66.67 and 83.33 % of all iterations; random resized
crops, flips left to right and upside down; gradients clipped at norm 1; the last network is tested.
Ours where the release is silent or differs: a crop that does not fit is drawn again up to ten times (torchvision's
rule). Crops are not rounded to whole pixels, and their borders see the pixels around them. Images are scaled as the
ImageNet weights were trained (Inception: mean and deviation 0.5). All sets share the student's seed (the release adds
the set's number to 666). So the suite's deviation is that of the sets, with n - 1; the release's, with n, also has that
of the students. On a GPU students train under bf16 autocast.
It was never run from the real weights: no machine with a network was at hand. Other image sizes give a warning.""",
)

DPD_SCRATCH_1 = Protocol(
    name="dpd-scratch",
    version=1,
    size=256,
    labels="hard",
    recipes=_RELEASED,
    source="""\
This project's own: dpd@1 without ImageNet weights, all numbers equal. The difference of the two is what pretraining
adds. Images are normalised by constants (mean 0.5, deviation 0.25); resnet18 has its 3x3 stem below 96 px.""",
)

_DC = Recipe(
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

DC_1 = Protocol(
    name="dc",
    version=1,
    recipes=MappingProxyType({"convnet": _DC}),
    source="""\
The evaluation of DSA, DM and their successors (facts about the public code of arXiv:2006.05929 and 2102.08259): the
ConvNet from scratch, SGD with momentum, 1001 epochs, the last 499 at a tenth of the rate. Each batch has one operation
of differentiable Siamese augmentation, each image its own numbers (brightness 1, saturation 2, contrast 0.5, scale 1.2,
15 degrees, crop of 1/8, cutout of 1/2). The last network is tested.
Ours where it differs: the optimizer keeps its momentum when the rate falls (there it is made anew); images are
normalised by constants (mean 0.5, deviation 0.25), not by the dataset's statistics; a distilled set is 8-bit; on a GPU
students train under bf16 autocast. dc@2 has the first, second and last as published. The literature has no recipe for
other networks, so there is none here.""",
)

_DC_2 = replace(_DC, normalise="data", new_optimizer=True, precision="fp32")

DC_2 = Protocol(
    name="dc",
    version=2,
    recipes=MappingProxyType({"convnet": _DC_2}),
    source="""\
The evaluation of DSA, DM and their successors, nearer to the public code than dc@1: images are normalised by the real
training images' statistics, a new optimizer is made when the rate falls (the momentum is lost), and students train in
float32 on every device. All else is dc@1's.
Ours where it differs: the statistics are those of this training split (the public code has constants of the dataset); a
distilled set is 8-bit (there unclipped floats); no TF32 on a GPU (there torch's default, TF32 in convolutions).""",
)

DC_PLAIN_1 = Protocol(
    name="dc-plain",
    version=1,
    recipes=MappingProxyType(
        {"convnet": replace(_DC_2, epochs=301, milestones=(152 / 301,), augment=Augment())},
    ),
    source="""\
The evaluation of DC itself, and of the coresets in its table (facts about the public code of arXiv:2006.05929): dc@2
without augmentation, in 301 epochs, the last 149 at a tenth of the rate. (With DSA's augmentation, the public code
raises the epochs to 1001. For MNIST it augments here too; this row does not.) Ours where it differs: as in dc@2.""",
)

DC_FLOAT_1 = replace(
    DC_2,
    name="dc-float",
    version=1,
    float_images=True,
    source="""\
The evaluation of DSA, DM and their successors on what their methods optimise: dc@2 on a set's float images, unrounded
and unclipped, if it carries some (`store_float=true`; they are four times as large). All numbers are dc@2's.""",
)

DC_PLAIN_FLOAT_1 = replace(
    DC_PLAIN_1,
    name="dc-plain-float",
    float_images=True,
    source="""\
The evaluation of DC on what it optimises: dc-plain@1 on a set's float images, unrounded and unclipped, if it carries
some. All numbers are dc-plain@1's.""",
)

_MTT = """\
The evaluation of MTT and its successors (facts about the public code of arXiv:2203.11932): dc-float@1 at the learning
rate that the method learned together with the images; it falls tenfold as there. A set without a learned rate is an
error. Ours where it differs: the last images of the distillation are evaluated, as by every protocol here (there, every
hundred iterations, five students, and the images that test best are reported). """

MTT_1 = replace(
    DC_FLOAT_1,
    name="mtt",
    recipes=MappingProxyType({"convnet": replace(_DC_2, learned_rate=True)}),
    source=_MTT + "mtt-zca@1 is for sets of whitened\nimages.",
)

MTT_ZCA_1 = replace(
    MTT_1,
    name="mtt-zca",
    recipes=MappingProxyType({"convnet": replace(_DC_2, learned_rate=True, normalise="zca")}),
    source=_MTT
    + """Images are
whitened, the test images too, by the set's matrix, else by that of the training split (ridge 0.1), in place of mtt@1's
normalisation: how the public code distils and evaluates CIFAR-10 at IPC 1 and 10 and CIFAR-100 at IPC 1 and 50.""",
)

_CONSTANTS = """\
{of} on {dataset}: images are normalised by the constants of the public code, {constants}, not by this training split's
statistics. All else is {of}'s. {use}"""
_CIFAR100 = {
    "dataset": "CIFAR-100",
    "constants": "the mean 0.5071, 0.4866, 0.4409 and the deviation 0.2673, 0.2564, 0.2762 of all pixels together",
}
_IMAGENET = {"dataset": "Tiny ImageNet and subsets of ImageNet", "constants": "those of ImageNet"}

DC_CIFAR100_1 = replace(
    DC_FLOAT_1,
    name="dc-cifar100",
    recipes=MappingProxyType({"convnet": replace(_DC_2, normalise="cifar100")}),
    source=wrap(_CONSTANTS.format(of="dc-float@1", **_CIFAR100, use="For DSA and DM.")),
)

DC_PLAIN_CIFAR100_1 = replace(
    DC_PLAIN_FLOAT_1,
    name="dc-plain-cifar100",
    recipes=MappingProxyType({"convnet": replace(DC_PLAIN_1.recipes["convnet"], normalise="cifar100")}),
    source=wrap(_CONSTANTS.format(of="dc-plain-float@1", **_CIFAR100, use="For DC and its table of coresets.")),
)

DC_IMAGENET_1 = replace(
    DC_FLOAT_1,
    name="dc-imagenet",
    recipes=MappingProxyType({"convnet": replace(_DC_2, normalise="imagenet")}),
    source=wrap(_CONSTANTS.format(of="dc-float@1", **_IMAGENET, use="For DM.")),
)

MTT_IMAGENET_1 = replace(
    MTT_1,
    name="mtt-imagenet",
    recipes=MappingProxyType({"convnet": replace(_DC_2, learned_rate=True, normalise="imagenet")}),
    source=wrap(_CONSTANTS.format(of="mtt@1", **_IMAGENET, use="For MTT and TESLA.")),
)

_IDC = Recipe(
    "sgd",
    lr=1e-2,
    weight_decay=5e-4,
    batch=64,
    epochs=300,
    momentum=0.9,
    warmup=0.0,
    nesterov=False,
    decay_all=True,
    whole_epochs=True,
    milestones=(2 / 3, 5 / 6),
    gamma=0.2,
    augment=Augment(
        crop_area=(0.5, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
        crop_tries=10,
        flip_x=0.5,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        lighting=0.1,
        cutmix=1.0,
        mix_batch=True,
    ),
    normalise="data",
    precision="fp32",
    epochs_by_ipc=((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500)),
    tests=100,
)

IDC_1 = Protocol(
    name="idc",
    version=1,
    size=224,
    labels="hard",
    recipes=MappingProxyType(dict.fromkeys(("convnet6", "resnet18_in", "resnet_ap10"), _IDC)),
    source="""\
The evaluation of IDC, Minimax, MGD3 and VLCP with hard labels (facts about the public code of arXiv:2205.14959 and
2311.15529): 224 px; SGD with momentum in batches of 64, the last of an epoch smaller; 3000 epochs at one image per
class, 2000 up to 10, 1500 up to 50, 1000 up to 200, 500 up to 500, else 300; the rate falls to a fifth after two thirds
and five sixths of them; crops of half of the area and more, flips, colour, lighting, and CutMix of every batch, by one
square for all its images. The last network is tested. Papers report the best epoch on the test images: it is stored as
best_on_test, from tests every hundredth of the epochs, and stands in no table.
Ours where it differs: images are normalised by this training split's statistics (there by ImageNet's constants);
brightness, contrast and saturation change in this order, clipped to 0..1 at the end (there in random order, unclipped);
crops and squares are not rounded to whole pixels; the rate falls at the nearest step, there after a whole epoch; no
TF32 on a GPU. There, 100 classes have two thirds of the epochs, and more another optimizer; here all have the same.""",
)

# epochs of 100 classes: two thirds of the others', rounded down to hundreds
_IDC_100 = ((100, 1, 2000), (100, 10, 1300), (100, 50, 1000), (100, 200, 600), (100, 500, 300), (100, 0, 200))
_IDC_2 = replace(_IDC, normalise="imagenet", epochs_by_classes=_IDC_100)

IDC_2 = replace(
    IDC_1,
    version=2,
    recipes=MappingProxyType(dict.fromkeys(IDC_1.recipes, _IDC_2)),
    source="""\
The evaluation of IDC, Minimax, MGD3 and VLCP with hard labels (facts about the public code of arXiv:2205.14959 and
2311.15529), nearer to the public code than idc@1: images are normalised by ImageNet's constants, and sets of exactly
100 classes train for two thirds of the epochs, rounded down to hundreds. All else is idc@1's.
Ours where it differs: brightness, contrast and saturation change in this order, clipped to 0..1 at the end (there in
random order, unclipped); crops and squares are not rounded to whole pixels; the rate falls at the nearest step, there
after a whole epoch; no TF32 on a GPU. There, more than 100 classes (IDC: 100 and more) have rate 0.1, weight decay 1e-4
and batches of 128; here all have the same.""",
)

FID_1 = Protocol(
    name="fid",
    version=1,
    init="imagenet",
    evaluates=False,
    recipes=MappingProxyType(
        {
            # nesterov: without effect on Adam, and of the row as it was published
            "inception_v3": replace(_RELEASE, optimizer="adam", lr=1e-4, batch=32, epochs=10, nesterov=True),
        }
    ),
    source="""\
Not for distilled sets: it trains the network whose features FID uses, on the real training split, as DPD's release does
(facts about pretrain_inception.py beside arXiv:2601.15829), at 256 px; the network after the tenth epoch is taken.
Ours where it differs: as in dpd@1, the rate falls at 66.67 and 83.33 % of all steps, there of the epochs. Images are
scaled as the network's ImageNet weights were trained (mean and deviation 0.5), there by ImageNet's statistics.""",
)
