"""Read a damaged input as ddbench does, and compare what is read with an independent reader. See malformed.py.

Every reader takes an empty folder, the input's name and bytes, and returns "read" or "refused" and the message. It
raises Wrong where ddbench reads something else than the independent reader, or refuses without naming the file.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import malformed_inputs as inputs
import numpy as np
import torch
from click.testing import CliRunner
from malformed_inputs import CLASSES, PER_CLASS, SIDE
from PIL import Image, ImageOps

from ddbench import config
from ddbench.cli.common import Group
from ddbench.cli.main import cli
from ddbench.datasets import download
from ddbench.datasets.decode import square
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.source import ClassFolders
from ddbench.leaderboard.reported import read_reported
from ddbench.methods.dm import DM
from ddbench.methods.latent_diffusion.class_numbers import read_class_numbers
from ddbench.methods.latent_diffusion.model import check_base
from ddbench.methods.latent_diffusion.model_files import EMBEDDED, find_model, model_identity
from ddbench.protocols import read_protocol
from ddbench.runner.external_folder import read_folder
from ddbench.store import distilled_set
from ddbench.store.paths import result_path
from ddbench.store.records import write_result, write_spec
from ddbench.store.results_file import export_results
from ddbench.sweep.grid import read_plan
from ddbench.utils.files import write_json
from evaluators.protocols import QUICK_1

Read = tuple[str, str]
TOY = ClassFolders(
    name="toy", title="Toy Land Use", classes=CLASSES, readable=CLASSES, counts=PER_CLASS, pixels=SIDE,
    resolution="1 m", licence="public domain", homepage="https://example.org/toy", citation="nobody",
    folders=("toy/Images", "Images"),
)  # fmt: skip


class Wrong(Exception):
    """What was read differs from what the independent reader reads, or a refusal does not name the file."""


def attempt(call: Callable[[], Any], name: str) -> tuple[str, str, Any]:
    """Call a reader as a command does; return "read" or "refused", the output, and the value. Raises its traceback."""
    values: list[Any] = []
    group = Group(commands={"read": click.Command("read", callback=lambda: values.append(call()))})
    state, text = run(group, ["read"], name)
    return state, text, values[0] if values else None


def run(group: click.Group, words: list[str], name: str) -> Read:
    """Run a command; return "read" for exit status 0, "refused" for 1 and 2, and the output. Raises its traceback."""
    outcome = CliRunner().invoke(group, words)
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    if outcome.exit_code and name not in outcome.output:
        raise Wrong(f"the refusal does not name {name}: {outcome.output}")
    return "refused" if outcome.exit_code else "read", outcome.output


def read_image(folder: Path, name: str, data: bytes) -> Read:
    """Verify and pack a dataset of which one image is damaged."""
    tree = inputs.write_tree(folder / "tree", CLASSES[:2], 2)
    (tree / "beach" / name).write_bytes(data)
    paths = DataPaths(None, folder / "shared", quiet=True)
    state, text = run(cli, ["--shared", str(paths.shared), "data", "verify", f"folder:{tree}"], f"beach/{name}")
    loaded, message, dataset = attempt(lambda: find_dataset(f"folder:{tree}").load(paths, SIDE), f"beach/{name}")
    if state != loaded:
        raise Wrong(f"verify: {state} ({text}); load: {loaded} ({message})")
    if state == "refused":
        return state, message
    for side in (dataset.train, dataset.test):
        for row, image in zip(side.names, side.images.numpy(), strict=True):
            expected = decode(data if row == f"beach/{name}" else (tree / row).read_bytes(), Path(row).suffix)
            difference = np.abs(image.astype(int) - square(Image.fromarray(expected), SIDE)).max()
            if difference > (1 if expected.shape[:2] == (SIDE, SIDE) else 2):
                raise Wrong(f"{row} differs by up to {difference}")
    return state, message


def decode(data: bytes, suffix: str) -> np.ndarray:
    """Decode an image by libraries other than Pillow where there are any: uint8 (h, w, 3), upright. Raises Wrong.

    torchvision turns a JPEG by any APP1 segment. Only one that begins with "Exif" and two zeros is EXIF (CIPA DC-008,
    section 4.7.2), so without such a segment it is told not to turn. giflib decodes all pictures of a GIF; where that
    fails, it decodes the file up to its first picture, the only one that counts.
    """
    from torchvision.io import ImageReadMode, decode_image

    kind = next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")
    try:
        if kind == "TIFF" and find_spec("tifffile"):
            try:
                return decode_tiff(data)
            except ValueError as error:
                if "imagecodecs" not in str(error):  # which it needs for LZW
                    raise
        elif kind and kind != "TIFF":
            raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            turned = kind != "JPEG" or EXIF in data
            try:
                image = decode_image(raw, ImageReadMode.RGB, apply_exif_orientation=turned)
            except RuntimeError:
                if kind != "GIF":
                    raise
                raw = torch.frombuffer(bytearray(first_picture(data)), dtype=torch.uint8)
                image = decode_image(raw, ImageReadMode.RGB)
            image = image[0] if image.ndim == 4 else image
            values = image.permute(1, 2, 0).numpy()
            return (values >> 8 if values.dtype == np.uint16 else values).astype(np.uint8)
        with Image.open(io.BytesIO(data)) as file:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except Exception as error:
        raise Wrong(f"{kind or suffix}: read, and another reader says: {error}") from None


def first_picture(gif: bytes) -> bytes:
    """Return a GIF up to its first picture, and an end. Raises IndexError for one that is cut."""
    place, kind = 13 + (3 << (gif[10] & 7) + 1) * (gif[10] >> 7), 0
    while kind != ord(","):
        kind = gif[place]
        flags = gif[place + 9] if kind == ord(",") else 0
        place += 11 + (3 << (flags & 7) + 1) * (flags >> 7) if kind == ord(",") else 2
        while gif[place]:
            place += 1 + gif[place]
        place += 1
    return gif[:place] + b";"


EXIF = b"Exif\0\0"
MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"GIF8": "GIF", b"RIFF": "WEBP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def decode_tiff(data: bytes) -> np.ndarray:
    """Decode the first page of a TIFF by tifffile."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values = page.asarray()
        if page.planarconfig == 2 and values.ndim == 3:
            values = values.transpose(1, 2, 0)
        if page.photometric == 3:
            table = np.asarray(page.colormap).T
            values = (table[values] >> 8).astype(np.uint8)
    values = values[..., None] if values.ndim == 2 else values
    values = (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
    values = (values * 255).astype(np.uint8) if values.dtype == bool else values
    values = 255 - values if page.photometric == 0 else values
    return np.ascontiguousarray(np.repeat(values, 3, 2) if values.shape[2] < 3 else values[..., :3])


def read_archive(folder: Path, name: str, data: bytes) -> Read:
    """Unpack an archive as `ddbench data prepare --from` does; compare with what is in it by another program."""
    archive = folder / name
    archive.write_bytes(data)
    paths = DataPaths(folder / "data", folder / "shared", quiet=True)
    state, text, kept = attempt(lambda: download.fetch(TOY, paths, archive), name)
    if state == "refused":
        if (paths.root / "toy").exists():
            raise Wrong("it was refused, and its images were kept")
        return state, text
    unpacked = {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*.*")}
    expected = members(archive, folder / "other") or members_of_whole(name)
    if {file: expected.get(file) for file in unpacked} != unpacked:
        raise Wrong(f"{archive} has other images by another program: {sorted(set(unpacked) ^ set(expected))}")
    outside = {path.name for path in folder.iterdir()} - {name, "data", "shared", "other"}
    if outside or len(unpacked) != len(CLASSES) * PER_CLASS:
        raise Wrong(f"{len(unpacked)} images; beside the data: {outside}")
    return state, text


def members(archive: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of an archive by name: a ZIP's by Python's module, which checks CRCs, a TAR's by `tar`.

    Return none where `tar` refuses the archive.
    """
    folder.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return {info.filename.replace("\\", "/"): file.read(info) for info in file.infolist() if not info.is_dir()}
    outcome = subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], capture_output=True, text=True)
    if outcome.returncode:  # such as for bytes behind the end
        return {}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def members_of_whole(name: str) -> dict[str, bytes]:
    """Return the files of the archive before it was damaged."""
    with tarfile.open(fileobj=io.BytesIO(inputs.archives()[name])) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar.getmembers()}


def read_toml(folder: Path, name: str, data: bytes) -> Read:
    """Read a TOML file by the command that takes it; every value that is read is the file's."""
    path = folder / name
    path.write_bytes(data)
    kind = Path(name).stem
    readers: dict[str, Callable[[], Any]] = {
        "plan": lambda: read_plan(path),
        "protocol": lambda: read_protocol(path),
        "settings": lambda: config.build(DM, config_file=path),
        "reported": lambda: read_reported(path),
        "classes": lambda: read_class_numbers(str(path)),
    }
    state, text, value = attempt(readers[kind], name)
    if state == "refused":
        return state, text
    if kind == "plan":
        words = ["--runs", str(folder / "runs"), "--shared", str(folder / "shared"), "sweep", str(path), "--dry-run"]
        run(cli, words, "")
    table = tomllib.loads(data.decode())
    if kind == "classes":
        words = {key: " ".join(key.casefold().replace("_", " ").replace("-", " ").split()) for key in table}
        pairs = [(value, {words[key]: item for key, item in table.items()})]
    elif kind == "reported":
        pairs = [(vars(number), {k: " ".join(v.split()) if isinstance(v, str) else v for k, v in row.items()})
                 for number, row in zip(value, table["reported"], strict=True)]  # fmt: skip
    elif kind == "plan":
        rows = [row if isinstance(row, dict) else {"method": row} for row in table.pop("methods")]
        pairs = [(vars(value[0]), table), *((vars(e), row) for e, row in zip(value[1], rows, strict=True))]
    elif kind == "protocol":
        recipes = {student: dict(row) for student, row in table.pop("recipes", {}).items()}
        augments = [(vars(value.recipes[s].augment), row.pop("augment", {})) for s, row in recipes.items()]
        pairs = [(vars(value.recipes[s]), row) for s, row in recipes.items()] + augments
        table.pop("like", None)
        table["teacher"] = table.get("teacher") or None
        pairs.append((vars(value), table))
    else:
        pairs = [(vars(value), table)]
    for actual, expected in pairs:
        for key, item in expected.items():
            if plain(actual[key]) != plain(item):
                raise Wrong(f"{name}: {key} is {item!r}, and {actual[key]!r} was read")
    return state, text


def plain(value: Any) -> Any:
    """Return lists as tuples."""
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


@cache
def result_files() -> dict[str, bytes]:
    """Return the files of a runs folder, and the same folder exported."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        run_folder = write_runs(runs)
        files = {f"runs/{path.relative_to(runs).as_posix()}": path.read_bytes() for path in run_folder.rglob("*.json")}
        for name in ("ours.jsonl", "ours.jsonl.gz"):
            export_results(runs, Path(folder) / name)
            files[name] = (Path(folder) / name).read_bytes()
    return files


def write_runs(runs: Path) -> Path:
    """Write a run with two students, a failure and its cost; return its folder."""
    spec, result = inputs.spec_and_result()
    folder = spec.folder(runs)
    write_spec(folder, spec)
    write_result(result_path(folder, QUICK_1, "convnet", 0), result)
    write_result(result_path(folder, QUICK_1, "convnet", 1), replace(result, seed=1, overall=0.75))
    failed = {"status": "diverged", "error": "the loss is not finite", "trace": ""}
    write_json(result_path(folder, QUICK_1, "convnet", 2).with_suffix(".failed.json"), failed)
    stage = {"stage": "prototypes", "seconds": 1.0, "reused": False, "folder": "prototypes-0123456789abcdef"}
    write_json(folder / "distill.json", {"schema": 1, "seconds": 3.5, "stages": [stage]})
    (folder / "distilled").mkdir()
    distilled_set.write(folder / "distilled", inputs.distilled())
    return folder


def read_result_file(folder: Path, name: str, data: bytes) -> Read:
    """Read a runs folder, or an exported file, by all commands that read one."""
    runs = folder / "runs"
    write_runs(runs)
    (folder / name).write_bytes(data)
    # of a set that was changed, the results are named
    short = "results" if name.endswith("manifest.json") else Path(name).name
    source = runs if name.startswith("runs/") else folder / name
    words = ["--runs", str(source), "--shared", str(folder / "shared")]
    states = []
    for command in (["leaderboard"], ["leaderboard", "--with", "seconds", "--format", "latex"], ["robustness"],
                    ["report", "--output", str(folder / "page.html")]):  # fmt: skip
        states.append(run_any(words + command, short))
    merged = ["--runs", str(folder / "all"), "merge", str(source)]
    states.append(run_any(merged, short))
    if source == runs:
        states.append(run_any([*words, "export", "results", str(folder / "all.jsonl")], short))
    outcome = CliRunner().invoke(cli, [*words, "leaderboard", "--format", "json"])
    if not outcome.stdout:
        return "refused", outcome.output
    check_numbers(json.loads(outcome.stdout), source)
    return ("read" if outcome.exit_code == 0 else "refused"), outcome.output + "".join(states)


def run_any(words: list[str], name: str) -> str:
    """Run a command; what it says where it fails. Raises its traceback."""
    outcome = CliRunner().invoke(cli, words)
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    if outcome.exit_code and name not in outcome.output:
        raise Wrong(f"{words}: the refusal does not name {name}: {outcome.output}")
    outcome.stdout.encode()
    return outcome.output if outcome.exit_code else ""


def check_numbers(printed: Any, source: Path) -> None:
    """Raise Wrong unless every result that is printed stands in a file."""
    import gzip

    if source.is_dir():
        records = [json.loads(path.read_bytes()) for path in source.glob("*/*/*/*/results/*/*.json")
                   if is_json(path.read_bytes())]  # fmt: skip
    else:
        raw = source.read_bytes()
        try:
            lines = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).splitlines()
        except (OSError, EOFError, ValueError, zlib.error):
            return  # its beginning is used, and the rest named
        records = [json.loads(line)["data"] for line in lines if is_json(line) and "data" in json.loads(line)]
    known = [(r.get("student"), r.get("seed"), r.get("overall"), r.get("run")) for r in records if isinstance(r, dict)]
    for row in printed["results"] if isinstance(printed, dict) else printed:
        result = row.get("result", row)
        if (result["student"], result["seed"], result["overall"], result["run"]) not in known:
            raise Wrong(f"a result that no file holds: {result}")


def is_json(data: bytes) -> bool:
    """Return True for a JSON object."""
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def read_split(folder: Path, name: str, data: bytes) -> Read:
    """Split a dataset by a damaged list."""
    tree = inputs.write_tree(folder / "tree")
    path = folder / name
    path.write_bytes(data)
    paths = DataPaths(None, folder / "shared", quiet=True)
    state, text, split = attempt(lambda: find_dataset(f"folder:{tree}@{path}").describe(paths), name)
    if state == "refused":
        return state, text
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    for side, names in (("train", split.train), ("test", split.test)):
        listed = {Path(row["file"].replace("\\", "/")).stem for row in rows if row["split"] == side}
        if {Path(one).stem for of_class in names for one in of_class} != listed:
            raise Wrong(f"{side}: the list has {listed}, read were {names}")
    return state, text


def read_set(folder: Path, name: str, data: bytes) -> Read:
    """Read a folder of distilled images with soft labels and float images, one file of which is damaged."""
    given = inputs.write_tree(folder / "given", count=0)
    for label, of_class in enumerate(CLASSES):
        for index in range(2):
            (given / of_class / f"{index}.png").write_bytes(inputs.encode(inputs.picture(label, index)))
    for file, whole in inputs.tensor_files().items():
        (given / file).write_bytes(data if file == name else whole)
    state, text, pictures = attempt(lambda: read_folder(given, CLASSES, SIDE), name)
    if state == "refused":
        return state, text
    for file, array in (("soft_labels", pictures.soft), ("float_images", pictures.floats)):
        expected, names = parse_tensor((given / f"{file}.safetensors").read_bytes(), file)
        order = sorted(range(len(names)), key=names.__getitem__)
        if not np.array_equal(array, expected[order], equal_nan=True):
            raise Wrong(f"{file} differ from the file's")
    files = sorted(given.glob("*/*.png"))
    for image, path in zip(pictures.images, files, strict=True):
        if not np.array_equal(image, decode(path.read_bytes(), ".png")):
            raise Wrong(f"{path} differs")
    return state, text


def parse_tensor(data: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """Take a safetensors file apart by hand; return the array and the files' names in its metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    start, stop = header[name]["data_offsets"]
    kind = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "U32": "<u4", "I32": "<i4"}[header[name]["dtype"]]
    array = np.frombuffer(data[8 + length + start : 8 + length + stop], kind).reshape(header[name]["shape"])
    names = json.loads(header.get("__metadata__", {}).get("files", "[]"))
    classes = json.loads(header.get("__metadata__", {}).get("classes", "[]"))
    if name == "soft_labels" and classes:
        array = array[:, [classes.index(one) for one in CLASSES]]
    return array, names or [f"{one}/{index}.png" for one in CLASSES for index in range(2)]


def read_model(folder: Path, name: str, data: bytes) -> Read:
    """Load a base model of which one file is damaged; one that loads has another identity."""
    base = folder / "base"
    for file in inputs.model_files():
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).symlink_to(EMBEDDED["tiny"] / file)
    whole = (base / name).read_bytes()
    (base / name).unlink()
    (base / name).write_bytes(data)
    state, text, identity = attempt(lambda: load_base(str(base)), "base")
    if state == "read" and data != whole and identity == own_identity():
        raise Wrong(f"{name} was changed, and the model's identity was not")
    return state, text


def load_base(name: str) -> str:
    """Check and load a base as a run does; return its identity."""
    identity = model_identity(name, find_model(name))
    check_base(name, "a satellite image of {}.", CLASSES)
    return identity


@cache
def own_identity() -> str:
    """Return the identity of a folder with all bytes of the embedded base."""
    return model_identity(str(EMBEDDED["tiny"]), EMBEDDED["tiny"])


FAMILIES: dict[str, tuple[Callable[[], dict[str, bytes]], Callable[[Path, str, bytes], Read]]] = {
    "images": (cache(inputs.image_files), read_image),
    "archives": (cache(inputs.archives), read_archive),
    "toml": (inputs.toml_files, read_toml),
    "results": (result_files, read_result_file),
    "splits": (inputs.split_files, read_split),
    "sets": (cache(inputs.tensor_files), read_set),
    "models": (cache(inputs.model_files), read_model),
}
