"""docs/datasets.md, written from the facts: `python docs/datasets_page.py > docs/datasets.md`. No torch."""

from __future__ import annotations

from tabulate import tabulate

from ddbench.datasets.info import LISTS, DatasetInfo
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
    "also",
    "got",
    "licence",
)

BEFORE = """\
# Datasets

Written from the facts in `ddbench/datasets/rs/` by `python docs/datasets_page.py`; a test keeps it so.

"""
AFTER = """

`scenes` is embedded (procedural, 10 classes, 64 px, 100 + 50 per class); `folder:PATH` is any tree with one folder
of images per class (80/20); `hf:OWNER/NAME` is any set of images with one class each on the Hugging Face hub (`pip
install 'ddbench[hf]'`), got once, at the revision that is then the newest and that every result names; its own sides
where it has them.

**got**: `downloaded` by `ddbench data prepare NAME`, with the checksum that was published for it, if any; of the
others that command says where they are, and `--from ARCHIVE_OR_FOLDER` takes what you have (ZIP, TAR; RAR must be
unpacked first).

**split**: of each class, training/test. By ratio, files are ranked by the SHA-256 of class and file name, so it is
the same everywhere and of every copy. `1-600/rest` goes by the number in the file's name. Others are asked for
behind the name: `NAME@20` trains on 20 percent of each class (any number from 1 to 99; **also** are those of the
literature), `NAME@torchgeo` on the lists of Neumann et al. (arXiv:1911.06721; their images to validate are left
out), `NAME@FILE.csv` on your own (columns `file`, such as `beach/beach07.tif`, and `split`, `train` or `test`).
DPD's own lists for `ucm` and `aid` are not public; its ratio is the default.

**Layouts.** Class folders are found without regard to case, spaces, underscores and hyphens, nested or not, in one
folder or in one for each side of somebody's split, below any of the folders that `ddbench data show NAME` lists or
below `DATA_ROOT/NAME`. Classes keep the documented order and name. A folder with images inside a class folder is an
error. `data prepare` keeps nothing of an archive or download that does not hold the whole dataset.

**Pixels.** Grey is repeated, alpha dropped, palettes and CMYK looked up, of 16 bits the upper 8 kept, an EXIF
orientation applied, of several pictures the first used; other kinds of pixels and files of more than 100 million are
refused by name, and so are 16 bits of which only the lower 8 are used. The shorter side becomes the asked size by
Lanczos (`--resize bilinear`: as DPD's release tests), widened by the reduction so that nothing aliases, and the
middle is kept.

**Measured** on two cores of an AMD EPYC, 64 px (`benchmarks/packing.py`, against ImageFolder, Resize and stack):
packing `eurosat` 4.2 s, 1.87 times as fast, and `ucm` 1.9 s, 1.86 times, with the same pixels (`ucm`: but for
rounding of where its odd sizes are cropped) at 530 MB, nearly all of it torch; loading the packed 27 000 images 0.28 s
and 12 MB. Packing 31 500 JPEGs of 256 px took 67 s beside two other jobs, 61 MB in the process that asks and 59 MB in
each of the two that pack. `data verify`, which decodes and compares all: `ucm` 2 s, `eurosat` 19 s.

**Known.**

"""


def page() -> str:
    """Return the whole page: every registered dataset in class folders, by name."""
    every = [source for source in map(find_dataset, names("datasets")) if isinstance(source, DatasetInfo)]
    table = tabulate([_row(info) for info in every], HEADS, tablefmt="github", disable_numparse=True)
    known = "\n".join(f"- `{info.name}`: {info.known}." for info in every if info.known)
    cited = "\n".join(f"- `{info.name}`: {info.citation}. <{info.homepage}>" for info in every)
    return f"{BEFORE}{table}{AFTER}{known}\n\n**Cite.**\n\n{cited}\n"


def _row(info: DatasetInfo) -> tuple[str, ...]:
    counts = info.expected or ()
    total, low, high = info.total or sum(counts), min(counts, default=0), max(counts, default=0)
    per_class = "1500-3000" if not counts else str(low) if low == high else f"{low}-{high}"
    others = [f"@{ratio}" for ratio in info.ratios if info.with_split(str(ratio)) is not info]
    others += [f"@{LISTS}"] if info.lists else []
    got = "downloaded" + (f" ({info.checksum.split()[0]})" if info.checksum else "") if info.address else "by hand"
    return (
        f"`{info.name}`", info.title, str(len(info.classes)), str(total), per_class, str(info.pixels),
        info.resolution, info.split_rule.split()[0], " ".join(others), got, info.licence,
    )  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
