"""The judge: fresh students are trained on a set of images and tested on real ones. Tensors in, numbers out.

A small library of its own. It never imports `ddbench` and knows no distillation method by name.

recipes     what a training row is made of (no torch)
protocols   named, versioned, frozen training rows (no torch)
catalog     the students' names, and which image sizes they take (no torch)
students    `build`: the networks, and their penultimate features
networks, pretrained   their bodies; torchvision's ImageNet weights
augment     batched random crops, flips, colour, cutout, CutMix; every image its own draw
dsa         differentiable Siamese augmentation
train       `train_student`: uint8 images and hard or soft labels -> a trained network
accuracy    `evaluate`: a network and real images -> Scores, as fractions
corruptions accuracies on corrupted test images: haze, cloud, noise, blur, darkness, JPEG, turns
fidelity    FID, KID, coverage, NN-SSIM, precision and recall, CLIP score, from features or pixels
clip        embeddings by a CLIP model (transformers)

VERSION goes up when a number may change without a protocol's version saying so (a defect repaired in the loop, say).
"""

VERSION = 1
