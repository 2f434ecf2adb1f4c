"""The judge: fresh students are trained on a set of images and tested on real ones. Tensors in, numbers out.

A small library of its own. It never imports `ddbench` and knows no distillation method by name.

protocols   named, versioned, frozen training rows (no torch)
sizes       which image sizes the students take (no torch)
students    the networks, and their penultimate features
augment     batched random crops, flips, colour, cutout; every image its own draw
train       `train_student`: uint8 images and labels -> a trained network
accuracy    `evaluate`: a network and real images -> Scores, as fractions

VERSION goes up when a number may change without a protocol's version saying so (a defect repaired in the loop, say).
"""

VERSION = 1
