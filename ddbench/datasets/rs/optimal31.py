"""OPTIMAL-31: 1860 images of 31 classes, all of them classes of NWPU-RESISC45 too."""

from ddbench.datasets.info import HubCopy
from ddbench.datasets.source import ClassFolders

OPTIMAL31 = ClassFolders(
    name="optimal31",
    title="OPTIMAL-31",
    classes=(
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
        "circular_farmland", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
        "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow",
        "medium_residential", "mobile_home_park", "mountain", "overpass", "parking_lot", "railway",
        "rectangular_farmland", "roundabout", "runway",
    ),
    readable=(
        "airplane", "airport", "baseball diamond", "basketball court", "beach", "bridge", "chaparral", "church",
        "circular farmland", "commercial area", "dense residential area", "desert", "forest", "freeway", "golf course",
        "ground track field", "harbor", "industrial area", "intersection", "island", "lake", "meadow",
        "medium residential area", "mobile home park", "mountain", "overpass", "parking lot", "railway",
        "rectangular farmland", "roundabout", "runway",
    ),
    counts=60,
    pixels=256,
    resolution="unknown",
    licence="not stated",
    homepage="https://crabwq.github.io/",
    citation=(
        "Q. Wang, S. Liu, J. Chanussot, X. Li: Scene classification with recurrent attention of VHR remote sensing "
        "images. IEEE TGRS 57(2), 2019, doi:10.1109/TGRS.2018.2864987"
    ),
    folders=("OPTIMAL-31/Images", "OPTIMAL-31", "OPTIMAL31"),
    address="https://drive.google.com/uc?id=1Fk9a0DW8UyyQsR8dP2Qdakmr69NVBhq9",
    archive="OPTIMAL-31.zip",
    copy=HubCopy(
        repo="jonathan-roberts1/Optimal-31",
        revision="6c79cd8536e2f3ace62c869ce1ae09fa85b517d3",
        size=25_105_452,
        encoding="images in one table, 13 kB each, as JPEG has; if they are the release's files is not stated",
        reference="https://huggingface.co/datasets/jonathan-roberts1/Optimal-31 (its card: 1860 images, 31 classes)",
    ),
)  # fmt: skip
