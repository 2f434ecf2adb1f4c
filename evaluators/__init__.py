"""Train fresh students on a set of images and test them on real images. Tensors in, numbers out.

A small library of its own. It never imports `ddbench` and knows no distillation method by name.

recipes     the fields of a training row (no torch); `fields` has those of augmentation
protocols   named, versioned, frozen training rows of this project (no torch)
literature, literature_views   those of the literature: with labels of the set, of every view (no torch)
catalog     one row per student: image sizes, builder, weights (no torch)
students    `build`: the networks, and their penultimate features
networks, pretrained   their bodies; torchvision's ImageNet weights
normalisation   from grey values to what a network sees: constants, statistics, whitening
augment     batched random crops, flips, colour, erasing, CutMix, mixup; every image draws its own numbers
operations  RandAugment and its operations: kornia applies them
dsa         differentiable Siamese augmentation
batches     the augmented batches of a training
targets     hard labels, soft labels, and a teacher's of every view
train       `train_student`: uint8 images and hard or soft labels -> a trained network
resume, compilation, cuda_graph, seeds   its checkpoints, compiled code, CUDA graphs; seeds by names
accuracy    `evaluate`: a network and real images -> Scores, as fractions
corruptions accuracies on corrupted test images: haze, cloud, noise, blur, darkness, JPEG, rotation
audit       attacks by similarity to a distilled set; `lira`: by students, with and without an image (no torch)
fidelity    FID, KID, coverage, NN-SSIM, precision and recall, CLIP score, from features or pixels
clip        embeddings by a CLIP model (transformers)
model_checks   refuse models that are not whole (no torch)

VERSION goes up when a number may change while the protocols' versions stay (after a repaired defect in the loop, say).
"""

VERSION = 2
