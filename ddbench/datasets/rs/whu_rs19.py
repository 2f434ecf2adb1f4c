"""WHU-RS19: 1005 images of 19 classes, from Google Earth."""

from ddbench.datasets.info import HubCopy
from ddbench.datasets.source import ClassFolders

WHU_RS19 = ClassFolders(
    name="whu-rs19",
    title="WHU-RS19",
    classes=(
        "Airport", "Beach", "Bridge", "Commercial", "Desert", "Farmland", "Forest", "Industrial", "Meadow", "Mountain",
        "Park", "Parking", "Pond", "Port", "Residential", "River", "Viaduct", "footballField", "railwayStation",
    ),
    readable=(
        "airport", "beach", "bridge", "commercial area", "desert", "farmland", "forest", "industrial area", "meadow",
        "mountain", "park", "parking lot", "pond", "port", "residential area", "river", "viaduct", "football field",
        "railway station",
    ),
    counts=(55, 50, 52, 56, 50, 50, 53, 53, 61, 50, 50, 50, 54, 53, 54, 56, 58, 50, 50),
    pixels=600,
    resolution="up to 0.5 m",
    licence="not stated (CC BY 4.0 as a hub copy says)",
    homepage="https://captain.whu.edu.cn/repository.html",
    citation=(
        "D. Dai, W. Yang: Satellite image classification via two-layer sparse coding with biased image representation. "
        "IEEE GRSL 8(1), 2011, doi:10.1109/LGRS.2010.2055033"
    ),
    folders=("WHU-RS19", "RSDataset"),
    address="http://captain.whu.edu.cn/datasets/WHU-RS19.zip",
    copy=HubCopy(
        repo="jonathan-roberts1/WHU-RS19",
        size=113_327_264,
        encoding="images in one table, 115 kB each, as JPEG has; if they are the release's files is not stated",
        reference="https://huggingface.co/datasets/jonathan-roberts1/WHU-RS19 (its card: 1005 images, 19 classes)",
    ),
)  # fmt: skip
