"""NWPU-RESISC45: 31 500 images of 45 classes, from all over the world."""

from ddbench.datasets.info import Lists
from ddbench.datasets.source import ClassFolders

HUB = "https://huggingface.co/datasets/isaaccorley/resisc45/resolve/883edc0eee77b2c84225472f10f126e3ed83fa6e"

NWPU = ClassFolders(
    name="nwpu",
    title="NWPU-RESISC45",
    classes=(
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
        "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway",
        "golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow",
        "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway",
        "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg",
        "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
    ),
    readable=(
        "airplane", "airport", "baseball diamond", "basketball court", "beach", "bridge", "chaparral", "church",
        "circular farmland", "cloud", "commercial area", "dense residential area", "desert", "forest", "freeway",
        "golf course", "ground track field", "harbor", "industrial area", "intersection", "island", "lake", "meadow",
        "medium residential area", "mobile home park", "mountain", "overpass", "palace", "parking lot", "railway",
        "railway station", "rectangular farmland", "river", "roundabout", "runway", "sea ice", "ship", "snowberg",
        "sparse residential area", "stadium", "storage tank", "tennis court", "terrace", "thermal power station",
        "wetland",
    ),
    counts=700,
    pixels=256,
    resolution="0.2 to 30 m",
    licence="sources disagree: CC BY-NC 4.0, or CC BY-SA; not stated by the authors",
    homepage="https://gcheng-nwpu.github.io/#Datasets",
    citation=(
        "G. Cheng, J. Han, X. Lu: Remote sensing image scene classification: Benchmark and state of the art. "
        "Proceedings of the IEEE 105(10), 2017, doi:10.1109/JPROC.2017.2675998"
    ),
    folders=("NWPU-RESISC45", "RESISC45"),
    address=f"{HUB}/NWPU-RESISC45.zip",
    checksum="SHA-256 beeecd0b63656290ae6d65cf7763185b0c1c4c54a753ef8088d6fba3faaf1f53",
    size=427_000_000,
    reference="torchgeo (torchgeo/datasets/resisc45.py)",
    numbered=600,  # DPD's release: images 001 to 600 of every class train
    ratios=(10, 20),
    lists=Lists(
        f"{HUB}/resisc45-{{side}}.txt",
        {
            "train": "ecfa963be4d85eac83665f8be8634abcb4fe6f3546472cc0e87999e2cab4449b",
            "test": "e0927e80130b47317a2f18520d98382b6fc56f0d3edd3345140f7d02267c3805",
        },
    ),
)  # fmt: skip
