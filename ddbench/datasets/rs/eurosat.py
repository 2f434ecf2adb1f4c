"""EuroSAT in red, green and blue: 27 000 Sentinel-2 patches of 10 classes."""

from ddbench.datasets.info import Lists
from ddbench.datasets.source import ClassFolders

HUB = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"

EUROSAT = ClassFolders(
    name="eurosat",
    title="EuroSAT RGB",
    classes=(
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop",
        "Residential", "River", "SeaLake",
    ),
    readable=(
        "annual crop land", "forest", "herbaceous vegetation land", "highway or road", "industrial buildings",
        "pasture land", "permanent crop land", "residential buildings", "river", "sea or lake",
    ),
    counts=(3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000),
    pixels=64,
    resolution="10 m",
    licence="MIT",
    homepage="https://github.com/phelber/EuroSAT",
    citation=(
        "P. Helber, B. Bischke, A. Dengel, D. Borth: EuroSAT: A novel dataset and deep learning benchmark for land use "
        "and land cover classification. IEEE JSTARS 12(7), 2019, doi:10.1109/JSTARS.2019.2918242"
    ),
    folders=("eurosat/2750", "2750", "EuroSAT/2750", "EuroSAT", "EuroSAT_RGB", "."),
    address="https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
    checksum="MD5 c8fa014336c82ac7804f0398fcb19387",
    size=94_300_000,
    reference="torchvision (torchvision/datasets/eurosat.py)",
    defects="River_111 and River_1680, River_492 and River_597 overlap;"
    " each pair is on both sides of the default split",
    lists=Lists(
        f"{HUB}/eurosat-{{side}}.txt",
        {
            "train": "1c1d2e855f95deee605a3d992f914d113fddbecf422ec61648057d029a37d695",
            "test": "cf37948894c12bd953930ff54ee9b7abf0b31478abb8d25fd2c6c721db74c592",
        },
    ),
)  # fmt: skip
