"""RSSCN7: 2800 images of 7 classes, at four scales."""

from ddbench.datasets.info import HubCopy
from ddbench.datasets.source import ClassFolders

RSSCN7 = ClassFolders(
    name="rsscn7",
    title="RSSCN7",
    classes=("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking"),
    readable=(
        "grassland", "farmland", "industrial area", "river or lake", "forest", "residential area", "parking lot",
    ),
    also=(
        ("Grass", "aGrass"), ("grass_land", "aGrass"), ("Field", "bField"), ("farm_land", "bField"),
        ("Industry", "cIndustry"), ("industrial_region", "cIndustry"), ("River Lake", "dRiverLake"),
        ("Forest", "eForest"), ("Resident", "fResident"), ("residential_region", "fResident"),
        ("Parking", "gParking"), ("parking_lot", "gParking"),
    ),
    counts=400,
    pixels=400,
    resolution="unknown, four scales",
    licence="not stated",
    homepage="https://sites.google.com/site/qinzoucn/documents",
    citation=(
        "Q. Zou, L. Ni, T. Zhang, Q. Wang: Deep learning based feature selection for remote sensing scene "
        "classification. IEEE GRSL 12(11), 2015, doi:10.1109/LGRS.2015.2475299"
    ),
    folders=("RSSCN7", "RSSCN7-master"),
    copy=HubCopy(
        repo="blanchon/RSSCN7",
        files="data/*",
        size=360_000_000,
        encoding="files in the release's class folders; if they are the release's files is not stated",
        reference="https://huggingface.co/datasets/blanchon/RSSCN7 (its card and pages: 2800 images, 7 class folders, "
        "0.36 GB)",
    ),
    source="https://figshare.com/articles/dataset/7006946 (in a browser)",
    ratios=(20, 50),
)  # fmt: skip
