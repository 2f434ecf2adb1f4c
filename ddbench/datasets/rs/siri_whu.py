"""SIRI-WHU, the Google dataset: 2400 images of 12 classes, of cities of China."""

from ddbench.datasets.info import HubCopy
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
    licence="not stated (CC BY-NC-ND as a hub copy says)",
    homepage="http://www.lmars.whu.edu.cn/prof_web/zhongyanfei/e-code.html",
    citation=(
        "B. Zhao, Y. Zhong, G.-S. Xia, L. Zhang: Dirichlet-derived multiple topic scene classification model for high "
        "spatial resolution remote sensing imagery. IEEE TGRS 54(4), 2016, doi:10.1109/TGRS.2015.2496185"
    ),
    folders=("SIRI-WHU", "12class_tif"),
    copy=HubCopy(
        repo="jonathan-roberts1/SIRI-WHU",
        revision="79fbb09aa4dc9e4221379dffe151efd8759b59c3",
        size=147_702_566,
        encoding="images in one table, 66 kB each, where the release's TIFFs have 120 kB of pixels; if that is "
        "lossless, and whether the files have the release's names, is not stated",
        reference="https://huggingface.co/datasets/jonathan-roberts1/SIRI-WHU (its card: 2400 images, 12 classes)",
    ),
    source="https://figshare.com/articles/dataset/8796980 (in a browser)",
)  # fmt: skip
