"""CLRS: 15 000 images of 25 classes, made for continual learning."""

from ddbench.datasets.info import HubCopy
from ddbench.datasets.source import ClassFolders

CLRS = ClassFolders(
    name="clrs",
    title="CLRS",
    classes=(
        "airport", "bare-land", "beach", "bridge", "commercial", "desert", "farmland", "forest", "golf-course",
        "highway", "industrial", "meadow", "mountain", "overpass", "park", "parking", "playground", "port", "railway",
        "railway-station", "residential", "river", "runway", "stadium", "storage-tank",
    ),
    readable=(
        "airport", "bare land", "beach", "bridge", "commercial area", "desert", "farmland", "forest", "golf course",
        "highway", "industrial area", "meadow", "mountain", "overpass", "park", "parking lot", "playground", "port",
        "railway", "railway station", "residential area", "river", "runway", "stadium", "storage tank",
    ),
    counts=600,
    pixels=256,
    resolution="0.26 to 8.85 m",
    licence="not stated",
    homepage="https://github.com/lehaifeng/CLRS",
    citation=(
        "H. Li, H. Jiang, X. Gu, J. Peng, W. Li, L. Hong, C. Tao: CLRS: Continual learning benchmark for remote "
        "sensing image scene classification. Sensors 20(4), 2020, doi:10.3390/s20041226"
    ),
    folders=("CLRS",),
    copy=HubCopy(
        repo="jonathan-roberts1/CLRS",
        revision="07773c7351ebfce04f666a9c9a165d1e0d59af36",
        size=2_327_956_775,
        encoding="images in tables, 198 kB each: as large as uncompressed TIFFs of 256 px; if the files have the "
        "release's names is not stated",
        reference="https://huggingface.co/datasets/jonathan-roberts1/CLRS (its card: 15 000 images, 25 classes)",
    ),
    source="Baidu, linked on the homepage with its code (in a browser)",
)  # fmt: skip
