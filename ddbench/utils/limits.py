"""Limits of what may be asked for and of files that are read, so that a wrong number costs a message only. No torch."""

from __future__ import annotations

LARGEST_SIZE = 8192  # px, side of the images of a run
MOST_IMAGES = 1_000_000  # images per class of a distilled set
MOST_SEEDS = 10_000

LARGEST_JSON = 1 << 26  # bytes: a result of 2000 classes has 40 million; also of a line of an exported file
LARGEST_TOML = 1 << 20  # bytes
LARGEST_LIST = 1 << 28  # bytes of a list of a split
LARGEST_INDEX = 1 << 30  # bytes of a pack's index: ten million images
LARGEST_IMAGE = 1 << 30  # bytes of an image in an archive
MOST_PROBLEMS = 1000  # lines of an exported file that cannot be used, after which it is read no further
