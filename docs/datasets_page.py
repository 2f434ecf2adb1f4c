"""Write docs/datasets.md from the registered datasets: `python docs/datasets_page.py > docs/datasets.md`. No torch."""

from __future__ import annotations

from tabulate import tabulate

from ddbench.datasets.info import LISTS, DatasetInfo, format_bytes
from ddbench.datasets.lookup import find_dataset
from ddbench.registry import names

HEADS = (
    "name",
    "dataset",
    "classes",
    "images",
    "per class",
    "px",
    "ground resolution",
    "split",
    "more splits",
    "source",
    "licence",
)

BEFORE = """\
# Datasets

This page lists the datasets that `--dataset` takes, and the rules for your own folders, splits and pixels. `python
docs/datasets_page.py > docs/datasets.md` writes it from the facts of every dataset; a test compares them.

"""
AFTER = """

- `scenes` is embedded: procedural, 10 classes, 64 px, 100 training and 50 test images per class.
- `folder:PATH` is any tree with one folder of images per class, split 80/20. If PATH holds the folders `train` and
  `test` (or `val`, where there is no `test`), each with the class folders, that is the split. `folder:PATH@val` tests
  on `val`, `folder:PATH@50` mixes both sides and splits anew.
- `cifar10` is no benchmark of this suite. Papers published what their methods reach on it, so it shows whether methods
  and evaluators are calibrated. Class folders below `DATA_ROOT/cifar10/train` and `test` are read too.
- `hf:OWNER/NAME` is an image dataset with one class per image on the Hugging Face hub (`pip install 'ddbench[hf]'`). It
  is downloaded once, at the newest revision, which every result names. It keeps its own split if it has one.
  `hf:OWNER/NAME:CONFIG` takes one of several configurations, `hf:OWNER/NAME?label=COLUMN&image=COLUMN` other columns.
  Class names that would share a folder get different ones. A set with broken or empty images is refused.

**source**: `ddbench data prepare NAME` downloads the dataset and checks the published checksum, if there is one.
`hub copy`: it downloads a public copy on the Hugging Face hub. For the others it prints where they are;
`--from ARCHIVE_OR_FOLDER` takes your copy (ZIP, TAR; unpack RAR first). `ddbench data prepare all --missing` gets every
dataset that is not there, goes on after a failure, and ends with a table. Downloads from the hub obey `HF_ENDPOINT` (a
mirror) and `HF_HUB_OFFLINE`.

**split**: training/test, per class.

- By ratio, files are ranked by the SHA-256 of class and file name. So the split is the same on every machine and for
  every copy. `1-600/rest` goes by the number in the file's name.
- `NAME@20` trains on 20 percent of each class. Any number from 1 to 99 works; **more splits** lists those of the
  literature.
- `NAME@torchgeo` takes the lists of Neumann et al. (arXiv:1911.06721) without their validation images.
- `NAME@FILE.csv` takes your list: columns `file`, such as `beach/beach07.tif`, and `split`, `train` or `test`. A name
  that is no file's may have another suffix.
- DPD's lists for `ucm` and `aid` are not public; its ratio is the default.

**Folders.** Class folders are matched regardless of case, spaces, underscores, hyphens and nesting, in one folder or in
one per side of a split. They may be below `DATA_ROOT/NAME` or a folder that `ddbench data show NAME` lists. Classes
keep the documented order and name. A folder with images inside a class folder is an error. `data prepare` keeps nothing
of an incomplete archive or download. Files that are not read (other suffixes, hidden files, links that lead nowhere, a
`val` folder beside `train` and `test`) are listed by `data verify` and counted by `run`. Names must be UTF-8.

**Pixels.** Grey is repeated, alpha and other bands behind the third are dropped, palettes and CMYK are converted.
16-bit images keep the upper 8 bits. EXIF orientation is applied. A file with several frames gives the first.
`data verify` and `run` count what they drop. These files are refused: other pixel types and numbers of bands, more than
100 million pixels, 16-bit images without a pixel above 16383 (reflectances, which would be black), a fourth band that a
TIFF marks as alpha by which the colours were multiplied, a PNG whose checksums are wrong. Lanczos with antialiasing
scales the shorter side to the requested size (`--resize bilinear`: as DPD's release tests); the centre is kept.

**Measured** on two cores of an AMD EPYC at 64 px, against ImageFolder, Resize and stack (`benchmarks/packing.py`):

- Packing `eurosat` takes 4.2 s, 1.87 times as fast; `ucm` 1.9 s, 1.86 times. The pixels are the same (`ucm`: except for
  rounding where odd sizes are cropped). Memory is 530 MB, nearly all of it torch.
- Loading the packed 27 000 images takes 0.28 s and 12 MB.
- Packing 31 500 JPEGs of 256 px took 67 s beside two other jobs, with 61 MB in the main process and 59 MB in each of
  the two workers.
- `data verify` decodes and compares all images: `ucm` 2 s, `eurosat` 19 s.

**Hub copies.** A copy counts as the dataset if its classes and the number of images of each are those above. The
command prints the copy's revision and the format of its files, and writes both to `DATA_ROOT/NAME/.ddbench.json`;
`ddbench data show NAME` prints that. The revision is the one in the facts, or else the newest at the time of the
download. File names decide the split by ratio: where a copy has lost the release's names, its split is another one,
with another fingerprint and rows of its own. Tables (Parquet) need `pip install 'ddbench[hf]'`. Files that arrived are
checked against the hub's SHA-256. If a download breaks off or is killed, the next one downloads only the rest. The
pages below were read, the copies themselves were not downloaded.

{copies}

**Known duplicates.**

"""


def page() -> str:
    """Return the whole page: every registered dataset in class folders, by name."""
    every = [source for source in map(find_dataset, names("datasets")) if isinstance(source, DatasetInfo)]
    table = tabulate([_row(info) for info in every], HEADS, tablefmt="github", disable_numparse=True)
    defects = "\n".join(f"- `{info.name}`: {info.defects}." for info in every if info.defects)
    copies = "\n".join(
        f"- `{info.name}`: {info.copy.description}; {info.copy.encoding}. Read at {info.copy.reference}."
        for info in every
        if info.copy
    )
    copies += "".join(f"\n- `{info.name}`: {info.reference}." for info in every if info.name == "aid")
    cited = "\n".join(f"- `{info.name}`: {info.citation}. <{info.homepage}>" for info in every)
    return f"{BEFORE}{table}{AFTER.replace('{copies}', copies)}{defects}\n\n**Citations.**\n\n{cited}\n"


def _row(info: DatasetInfo) -> tuple[str, ...]:
    counts = info.expected or ()
    total, low, high = info.total or sum(counts), min(counts, default=0), max(counts, default=0)
    per_class = "1500-3000" if not counts else str(low) if low == high else f"{low}-{high}"
    others = [f"@{ratio}" for ratio in info.ratios if info.with_split(str(ratio)) is not info]
    others += [f"@{LISTS}"] if info.lists else []
    if info.address:
        got = f"downloaded ({info.checksum.split()[0]})" if info.checksum else "downloaded"
        got += ", else hub copy" if info.copy else ""
    else:
        got = "hub copy" if info.copy else "by hand"
    if info.download_size:
        got += f", {format_bytes(info.download_size)}"
    return (
        f"`{info.name}`", info.title, str(len(info.classes)), str(total), per_class, str(info.pixels),
        info.resolution, info.split_rule.split()[0], " ".join(others), got, info.licence,
    )  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
