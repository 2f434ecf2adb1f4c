"""CIFAR-10: not a benchmark of this suite, but the dataset on which papers published what these methods reach."""

from ddbench.datasets.source import ClassFolders

CIFAR10 = ClassFolders(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    readable=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts=6000,
    pixels=32,
    resolution="none",
    licence="not stated",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="A. Krizhevsky: Learning multiple layers of features from tiny images. Technical report, Toronto, 2009",
    folders=("cifar10", "CIFAR-10", "cifar-10", "."),
    sides=("train", "test"),
)
