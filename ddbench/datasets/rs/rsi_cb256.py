"""RSI-CB256: 24 747 images of 35 classes, nested in groups of classes."""

from ddbench.datasets.info import HubCopy
from ddbench.datasets.source import ClassFolders

RSI_CB256 = ClassFolders(
    name="rsi-cb256",
    title="RSI-CB256",
    classes=(
        "airplane", "airport_runway", "artificial_grassland", "avenue", "bare_land", "bridge", "city_building",
        "coastline", "container", "crossroads", "dam", "desert", "dry_farm", "forest", "green_farmland", "highway",
        "hirst", "lakeshore", "mangrove", "marina", "mountain", "parkinglot", "pipeline", "residents", "river",
        "river_protection_forest", "sandbeach", "sapling", "sea", "shrubwood", "snow_mountain", "sparse_forest",
        "storage_room", "stream", "town",
    ),
    readable=(
        "airplane", "airport runway", "artificial grassland", "avenue", "bare land", "bridge", "city buildings",
        "coastline", "containers", "crossroads", "dam", "desert", "dry farmland", "forest", "green farmland", "highway",
        "sandbank", "lakeshore", "mangrove", "marina", "mountain", "parking lot", "pipeline", "residential area",
        "river", "river protection forest", "sand beach", "saplings", "sea", "shrubs", "snow mountain",
        "sparse forest", "storage room", "stream", "town",
    ),
    counts=(
        351, 678, 283, 544, 864, 469, 1014, 459, 660, 553, 324, 1092, 1309, 1082, 644, 223, 628, 438, 1049, 366, 812,
        467, 198, 810, 539, 524, 536, 879, 1028, 1331, 1153, 1110, 1307, 688, 335,
    ),
    pixels=256,
    resolution="0.22 to 3 m",
    licence="for academic purposes",
    homepage="https://github.com/lehaifeng/RSI-CB",
    citation=(
        "H. Li, X. Dou, C. Tao, Z. Wu, J. Chen, J. Peng, M. Deng, L. Zhao: RSI-CB: A large-scale remote sensing image "
        "classification benchmark using crowdsourced data. Sensors 20(6), 2020, doi:10.3390/s20061594"
    ),
    folders=("RSI-CB256",),
    copy=HubCopy(
        repo="jonathan-roberts1/RSI-CB256",
        revision="1092e5b41e75f9063026c6196617f86f6306cd12",
        label="label_2",
        size=4_200_000_000,
        encoding="images in tables, 170 kB each, where the release's TIFFs have 197 kB of pixels; if that is lossless, "
        "and whether the files have the release's names, is not stated",
        reference="https://huggingface.co/datasets/jonathan-roberts1/RSI-CB256 (its pages: 24 747 images, 35 classes "
        "in the column label_2, 10 files, 4.2 GB)",
    ),
    source="OneDrive, linked on the homepage (in a browser)",
)  # fmt: skip
