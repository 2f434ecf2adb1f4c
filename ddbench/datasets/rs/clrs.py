"""CLRS: 15 000 images of 25 classes, made for continual learning."""

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
    source="Baidu, linked on the homepage with its code (in a browser)",
)  # fmt: skip
