"""AID: 10 000 aerial images of 30 classes, from several sensors."""

from ddbench.datasets.source import ClassFolders

AID = ClassFolders(
    name="aid",
    title="AID",
    classes=(
        "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial", "DenseResidential",
        "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential", "Mountain", "Park", "Parking",
        "Playground", "Pond", "Port", "RailwayStation", "Resort", "River", "School", "SparseResidential", "Square",
        "Stadium", "StorageTanks", "Viaduct",
    ),
    readable=(
        "airport", "bare land", "baseball field", "beach", "bridge", "city center", "church", "commercial area",
        "dense residential area", "desert", "farmland", "forest", "industrial area", "meadow",
        "medium residential area", "mountain", "park", "parking lot", "playground", "pond", "port", "railway station",
        "resort", "river", "school", "sparse residential area", "city square", "stadium", "storage tanks", "viaduct",
    ),
    counts=(
        360, 310, 220, 400, 360, 260, 240, 350, 410, 300, 370, 250, 390, 280, 290, 340, 350, 390, 370, 420, 380, 260,
        290, 410, 300, 300, 330, 290, 360, 420,
    ),
    pixels=600,
    resolution="0.5 to 8 m",
    licence="not stated",
    homepage="https://captain-whu.github.io/AID/",
    citation=(
        "G.-S. Xia, J. Hu, F. Hu, B. Shi, X. Bai, Y. Zhong, L. Zhang, X. Lu: AID: A benchmark data set for performance "
        "evaluation of aerial scene classification. IEEE TGRS 55(7), 2017, doi:10.1109/TGRS.2017.2685945"
    ),
    folders=("AID",),
    address="https://huggingface.co/datasets/isaaccorley/aid/resolve/e6767964e40f567a18eac6e6ca5fce397e4ce411/AID.zip",
    checksum="SHA-256 79345ef1766e85f7b92cf556c809c4f32ff24228ae71aadf96780f74f48c26a4",
    reference="the downloader of torchgeo-bench (github.com/torchgeo/torchgeo-bench): a copy of the authors' archive "
    "with its file names, which was not compared with theirs (no checksum published)",
    source="https://1drv.ms/u/s!AthY3vMZmuxChNR0Co7QHpJ56M-SvQ (in a browser)",
    train_fraction=0.5,  # the ratio of DPD's release, whose list of files is not public
    ratios=(20, 50),
    defects="Industrial/industrial_203.jpg and Industrial/industrial_205.jpg are the same file",
)  # fmt: skip
