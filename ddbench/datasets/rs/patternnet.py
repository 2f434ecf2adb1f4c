"""PatternNet: 30 400 images of 38 classes, from Google Earth, of cities of the United States."""

from ddbench.datasets.source import ClassFolders

PATTERNNET = ClassFolders(
    name="patternnet",
    title="PatternNet",
    classes=(
        "airplane", "baseball_field", "basketball_court", "beach", "bridge", "cemetery", "chaparral",
        "christmas_tree_farm", "closed_road", "coastal_mansion", "crosswalk", "dense_residential", "ferry_terminal",
        "football_field", "forest", "freeway", "golf_course", "harbor", "intersection", "mobile_home_park",
        "nursing_home", "oil_gas_field", "oil_well", "overpass", "parking_lot", "parking_space", "railway", "river",
        "runway", "runway_marking", "shipping_yard", "solar_panel", "sparse_residential", "storage_tank",
        "swimming_pool", "tennis_court", "transformer_station", "wastewater_treatment_plant",
    ),
    readable=(
        "airplane", "baseball field", "basketball court", "beach", "bridge", "cemetery", "chaparral",
        "christmas tree farm", "closed road", "coastal mansion", "crosswalk", "dense residential area",
        "ferry terminal", "football field", "forest", "freeway", "golf course", "harbor", "intersection",
        "mobile home park", "nursing home", "oil or gas field", "oil well", "overpass", "parking lot", "parking space",
        "railway", "river", "runway", "runway marking", "shipping yard", "solar panels", "sparse residential area",
        "storage tank", "swimming pool", "tennis court", "transformer station", "wastewater treatment plant",
    ),
    counts=800,
    pixels=256,
    resolution="0.062 to 4.693 m",
    licence="CC BY 4.0 (as its hub copy says)",
    homepage="https://sites.google.com/view/zhouwx/dataset",
    citation=(
        "W. Zhou, S. Newsam, C. Li, Z. Shao: PatternNet: A benchmark dataset for performance evaluation of remote "
        "sensing image retrieval. ISPRS Journal 145, 2018, doi:10.1016/j.isprsjprs.2018.01.004"
    ),
    folders=("PatternNet/images", "PatternNet"),
    address=(
        "https://huggingface.co/datasets/torchgeo/PatternNet/resolve/2dbd901b00e301967a5c5146b25454f5d3455ad0/"
        "PatternNet.zip"
    ),
    checksum="SHA-256 456dd031950b0429518b8ec7d30a5c4b3f6456261ee1dd573a3eee43efb29958",
    size=1_430_000_000,
    reference="torchgeo (torchgeo/datasets/patternnet.py)",
)  # fmt: skip
