"""UC Merced Land Use: 2100 aerial images of 21 classes."""

from ddbench.datasets.info import Lists
from ddbench.datasets.source import ClassFolders

HUB = "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a"

UCM = ClassFolders(
    name="ucm",
    title="UC Merced Land Use",
    classes=(
        "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential", "forest",
        "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark", "overpass",
        "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
    ),
    readable=(
        "agricultural area", "airplane", "baseball diamond", "beach", "buildings", "chaparral",
        "dense residential area", "forest", "freeway", "golf course", "harbor", "intersection",
        "medium residential area", "mobile home park", "overpass", "parking lot", "river", "runway",
        "sparse residential area", "storage tanks", "tennis court",
    ),
    counts=100,
    pixels=256,  # 44 images are a few pixels smaller
    resolution="0.3 m",
    licence="public domain (USGS National Map Urban Area Imagery)",
    homepage="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
    citation=(
        "Y. Yang, S. Newsam: Bag-of-visual-words and spatial extensions for land-use classification. "
        "ACM SIGSPATIAL GIS 2010, doi:10.1145/1869790.1869829"
    ),
    folders=("UCMerced_LandUse/Images", "Images", "UCMerced_LandUse", "."),
    address=f"{HUB}/UCMerced_LandUse.zip",
    checksum="SHA-256 06c539ef28703a58fb07bd2837991ac7c48b813b00bb12ac197efd813a18daeb",
    size=332_468_434,
    reference="torchgeo (torchgeo/datasets/ucmerced.py)",
    train_fraction=0.5,  # the ratio of DPD's release, whose list of files is not public
    ratios=(50, 80),
    defects="airplane01 and airplane02 are the same file, in the copy that was at hand"
    " (JPEG); beach74 and beach75 show one place at two times",
    lists=Lists(
        f"{HUB}/uc_merced-{{side}}.txt",
        {
            "train": "d625ea884cb2870e007774c1d64e904e9ae71ba3e7b4b92a9e8aa6065e2cd8cc",
            "test": "0d3b64706fd2a9f9faaa1d7dade934ec8b4fd258a9853f037983b1f2db239220",
        },
    ),
)  # fmt: skip
