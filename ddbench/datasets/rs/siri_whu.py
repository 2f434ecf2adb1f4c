"""SIRI-WHU, the Google dataset: 2400 images of 12 classes, of cities of China."""

from ddbench.datasets.source import ClassFolders

SIRI_WHU = ClassFolders(
    name="siri-whu",
    title="SIRI-WHU (Google)",
    classes=(
        "agriculture", "commercial", "harbor", "idle_land", "industrial", "meadow", "overpass", "park", "pond",
        "residential", "river", "water",
    ),
    readable=(
        "agricultural land", "commercial area", "harbor", "idle land", "industrial area", "meadow", "overpass", "park",
        "pond", "residential area", "river", "water",
    ),
    counts=200,
    pixels=200,
    resolution="2 m",
    licence="not stated",
    homepage="http://www.lmars.whu.edu.cn/prof_web/zhongyanfei/e-code.html",
    citation=(
        "B. Zhao, Y. Zhong, G.-S. Xia, L. Zhang: Dirichlet-derived multiple topic scene classification model for high "
        "spatial resolution remote sensing imagery. IEEE TGRS 54(4), 2016, doi:10.1109/TGRS.2015.2496185"
    ),
    folders=("SIRI-WHU", "12class_tif"),
    source="https://figshare.com/articles/dataset/8796980 (in a browser)",
)  # fmt: skip
