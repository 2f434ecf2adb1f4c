"""Plan, distil, evaluate and measure one run. The names below serve `--help` too, so nothing is imported here."""

METRICS = ("fid", "coverage", "ssim", "clip", "map")  # of ddbench.runner.quality
