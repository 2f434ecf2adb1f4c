"""Plan, distil, evaluate and measure one run. The names below serve `--help` too, so nothing is imported here."""

METRICS = {  # of ddbench.runner.quality: name -> its line in `ddbench quality --help`
    "fid": "FID, KID, precision, recall, density, coverage",
    "coverage": "intra-class coverage",
    "ssim": "NN-SSIM: similarity to the nearest real images; high for copies",
    "clip": "CLIP score and zero-shot accuracy",
    "map": "a position of each image among the real ones; `ddbench report` draws it",
}
EMBEDDINGS = ("pixels", "convnet/quick@1")  # of ddbench.runner.audit, by default: without and with training on the data
