"""MLRSNet: 109 161 images of 46 categories; its 60 further labels of each image are not used."""

from ddbench.datasets.source import ClassFolders

MLRSNET = ClassFolders(
    name="mlrsnet",
    title="MLRSNet",
    classes=(
        "airplane", "airport", "bareland", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral",
        "cloud", "commercial_area", "dense_residential_area", "desert", "eroded_farmland", "farmland", "forest",
        "freeway", "golf_course", "ground_track_field", "harbor&port", "industrial_area", "intersection", "island",
        "lake", "meadow", "mobile_home_park", "mountain", "overpass", "park", "parking_lot", "parkway", "railway",
        "railway_station", "river", "roundabout", "shipping_yard", "snowberg", "sparse_residential_area", "stadium",
        "storage_tank", "swimmimg_pool", "tennis_court", "terrace", "transmission_tower", "vegetable_greenhouse",
        "wetland", "wind_turbine",
    ),
    readable=(
        "airplane", "airport", "bare land", "baseball diamond", "basketball court", "beach", "bridge", "chaparral",
        "cloud", "commercial area", "dense residential area", "desert", "eroded farmland", "farmland", "forest",
        "freeway", "golf course", "ground track field", "harbor or port", "industrial area", "intersection", "island",
        "lake", "meadow", "mobile home park", "mountain", "overpass", "park", "parking lot", "parkway", "railway",
        "railway station", "river", "roundabout", "shipping yard", "snowberg", "sparse residential area", "stadium",
        "storage tank", "swimming pool", "tennis court", "terrace", "transmission tower", "vegetable greenhouses",
        "wetland", "wind turbine",
    ),
    also=(("swimming_pool", "swimmimg_pool"), ("harbor_and_port", "harbor&port")),
    counts=None,  # 1500 to 3000 per class; a list of them was not at hand
    total=109_161,
    pixels=256,
    resolution="0.1 to 10 m",
    licence="CC BY 4.0",
    homepage="https://github.com/cugbrs/MLRSNet",
    citation=(
        "X. Qi, P. Zhu, Y. Wang, L. Zhang, J. Peng, M. Wu, J. Chen, X. Zhao, N. Zang, P. T. Mathiopoulos: MLRSNet: A "
        "multi-label high spatial resolution remote sensing dataset for semantic scene understanding. ISPRS Journal "
        "169, 2020, doi:10.1016/j.isprsjprs.2020.09.020"
    ),
    folders=("MLRSNet/Images", "MLRSNet"),
    source="https://data.mendeley.com/datasets/7j9bv9vwsx (in a browser); copies on the Hugging Face hub have "
    "the 60 further labels and no categories",
)  # fmt: skip
