"""The dataset card of an exported distilled set: README.md as the Hugging Face hub reads it. No torch at import."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import Source, find_dataset
from ddbench.datasets.name import DatasetName
from ddbench.errors import UserError
from ddbench.protocols import load_protocol
from ddbench.registry import load_method
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import Result, RunSpec
from ddbench.utils.text_table import markdown_table
from ddbench.version import __version__

# a source's licence -> the hub's word for it; every other text goes under "other"
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY 4.0": "cc-by-4.0", "not stated": "unknown",
            "unknown": "unknown"}  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGEST_SIZE = "1M<n<10M"


@dataclass(frozen=True)
class CardContent:
    """A run and its distilled set, as the card describes them.

    name: of the exported folder.
    spec: of the run.
    pictures: its distilled set.
    folders: of each class, in label order.
    results: accuracies of students on this set.
    """

    name: str
    spec: RunSpec
    pictures: Pictures
    folders: Sequence[str]
    results: Sequence[Result]


def write_card(path: Path, content: CardContent, data_paths: DataPaths) -> None:
    """Write the card. data_paths: of the real images, for the normalisation."""
    try:
        source = find_dataset(content.spec.dataset)
    except UserError:  # a folder or torch datasets: not to be found by name
        source = None
    parts = [
        _yaml(content, source),
        _summary(content),
        _loading(content),
        _classes(content),
        "\n".join(_normalisation(content, source, data_paths)),
        _accuracies(content),
        _licence(content, source),
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _yaml(content: CardContent, source: Source | None) -> str:
    """Return the head. A JSON text is a YAML text too, so values are quoted as JSON."""
    licence = source.licence if source else "unknown"
    known = LICENCES.get(licence, "other")
    count = len(content.pictures.images)
    size = next((word for bound, word in SIZES if count < bound), LARGEST_SIZE)
    lines = [
        "---",
        f"pretty_name: {_quote(_title(content))}",
        f"license: {known}",
        *([f"license_name: {_quote(licence)}"] if known == "other" else []),
        "task_categories:",
        "- image-classification",
        "tags:",
        "- dataset-distillation",
        "- ddbench",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        '    path: "train/**"',
        "---",
    ]
    return "\n".join(lines)


def _title(content: CardContent) -> str:
    spec = content.spec
    amount = f"{spec.ipc} images per class" if spec.ipc else "all training images"
    return f"{spec.dataset}, {amount} by {spec.method}"


def _summary(content: CardContent) -> str:
    """Return the heading and the table of facts."""
    spec, pictures = content.spec, content.pictures
    params = ", ".join(f"{name}={value}" for name, value in spec.params.items()) or "none"
    versions = content.results[0].versions if content.results else {}
    rows = {
        "method": f"{spec.method}, version {spec.method_version}" + (f", preset {spec.preset}" if spec.preset else ""),
        "hyper-parameters": params,
        "source": f"{spec.dataset}, training split",
        "split": f"{spec.split}; fingerprint {spec.fingerprint}",
        "images": f"{len(pictures.images)}, {min(pictures.counts)} to {max(pictures.counts)} per class, RGB, "
        f"{spec.size} x {spec.size} pixels, PNG",
        "labels": "hard" if pictures.soft is None else "soft: `soft_labels.safetensors`; the folders are hard labels",
        "also": ", ".join(_extra_files(pictures)) or "nothing",
        "seed": str(spec.seed),
        "content (SHA-256)": pictures.content(),
        "run (SHA-256)": spec.digest,
        "ddbench": __version__,
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded",
    }
    text = (
        f"A distilled set: a few images per class that stand for the training split of {spec.dataset}, "
        "made to train classifiers on. Written by `ddbench export images`."
    )
    return f"# {_title(content)}\n\n{text}\n\n{markdown_table(('field', 'value'), rows.items())}"


def _extra_files(pictures: Pictures) -> Iterator[str]:
    if pictures.floats is not None:
        yield "`float_images.safetensors` (the images before they were rounded to 8 bits)"
    if pictures.weights is not None:
        yield "`weights.safetensors` (of the images in a loss)"
    if pictures.whitening:
        yield "`whitening.safetensors` (the ZCA that the images were optimised in)"
    if pictures.learning_rate is not None:
        yield f"a learning rate for students, {pictures.learning_rate!r}"


def _loading(content: CardContent) -> str:
    """Return how to load the set and to repeat its accuracies."""
    spec, name = content.spec, content.name
    command = ["ddbench", *(["--resize", "bilinear"] if spec.split.endswith("resized by bilinear") else [])]
    command += ["evaluate", name, "--dataset", spec.dataset, "--size", str(spec.size)]
    students = list(dict.fromkeys((result.student, result.title) for result in content.results))
    for student, title in students[:1]:
        command += ["--student", student]
        command += ["--protocol", title] if not title.startswith("custom:") else []
    lines = [
        "## Load",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'images = load_dataset("imagefolder", data_dir={name!r}, split="train")',
        "```",
        "",
        "Train students on it and test them on the real test images, as the accuracies below were computed:",
        "",
        f"    {shlex.join(command)}",
    ]
    if not DatasetName.parse(spec.dataset).registered:
        lines += ["", f"`{spec.dataset}` stands for the images of its owner: name your copy of them there."]
    return "\n".join(lines)


def _classes(content: CardContent) -> str:
    """Return the order of the classes, and how `datasets` orders them."""
    names = content.pictures.classes
    rows = [
        (str(label), name, place, str(count))
        for label, (name, place, count) in enumerate(zip(names, content.folders, content.pictures.counts, strict=True))
    ]
    text = ["## Classes", ""]
    if any(not place.endswith(f"/{name}") for name, place in zip(names, content.folders, strict=True)):
        text += ["The names cannot all be names of folders, so `train/metadata.jsonl` has the label of each file.", ""]
    elif list(names) != sorted(names):
        text += ["`imagefolder` numbers the classes in the order of their names, which is another one.", ""]
    return "\n".join([*text, markdown_table(("label", "class", "folder", "images"), rows)])


def _normalisation(content: CardContent, source: Source | None, data_paths: DataPaths) -> Iterator[str]:
    """Yield what students do to the grey values, by protocol."""
    yield "## Grey values\n\nThe images hold 0 to 255 and are not normalised. Students divide by 255, then normalise:\n"
    titles = dict.fromkeys((result.title, result.student) for result in content.results) or {("quick@1", "convnet"): 0}
    for title, student in titles:
        try:
            protocol = load_protocol(title)
            kind = "imagenet" if protocol.init == "imagenet" else protocol.recipe(student).normalise
        except (UserError, ValueError):  # a user's protocol, or that of another version
            yield f"- {title}, {student}: as its file says"
            continue
        if kind == "zca":
            own = "`whitening.safetensors`" if content.pictures.whitening else "fitted to the real training split"
            yield f"- {title}, {student}: ZCA whitening, {own}"
            continue
        values = statistics(kind, content.spec, source, data_paths)
        yield f"- {title}, {student}: {values}"


def statistics(kind: str, spec: RunSpec, source: Source | None, data_paths: DataPaths) -> str:
    """Return mean and deviation as text; those of training images only where the images are there."""
    import torch

    from evaluators.normalisation import normalisation_of

    images = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)  # constants do not look at them
    if kind == "data":
        try:
            if source is None or source.describe(data_paths).fingerprint != spec.fingerprint:
                raise UserError("another split")
            images = source.load(data_paths, spec.size).train.images
        except UserError:
            return "mean and deviation of the real training split (not at hand when this card was written)"
    record = normalisation_of(images, kind).record()
    mean, std = (", ".join(f"{value:.6g}" for value in record[name]) for name in ("mean", "std"))
    return f"subtract the mean ({mean}), divide by the deviation ({std}) of red, green, blue ({kind})"


def _accuracies(content: CardContent) -> str:
    """Return the table of accuracies on the real test images."""
    if not content.results:
        return "## Accuracy\n\nNo student was trained on this set yet."
    rows = [
        (result.title, result.student, result.init, str(result.seed), f"{100 * result.overall:.2f}",
         f"{100 * result.average:.2f}", str(result.n_test), result.precision, result.device)
        for result in content.results
    ]  # fmt: skip
    heads = ("protocol", "student", "start", "seed", "overall, %", "by class, %", "test images", "precision", "device")
    return f"## Accuracy\n\nOf students trained on this set, on real test images:\n\n{markdown_table(heads, rows)}"


def _licence(content: CardContent, source: Source | None) -> str:
    """Return licence and citations of the source, and the citation of the method."""
    lines = ["## Licence and citation", ""]
    licence = source.licence if source else "unknown: the source has no public name"
    lines += [f"- licence of the source, {content.spec.dataset}: {licence}. Images of it, and images made from it, may"]
    lines += ["  fall under that licence."]
    if source and source.citation:
        lines += [f"- source: {source.citation}" + (f", <{source.homepage}>" if source.homepage else "")]
    try:
        citation = "" if content.spec.source else load_method(content.spec.method).citation
    except UserError:
        citation = ""
    if citation:
        lines += [f"- method: {citation}"]
    return "\n".join(lines)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
