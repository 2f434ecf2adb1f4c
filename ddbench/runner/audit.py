"""Audit a distilled set: does it give its training images away? One file for each embedding in `audit/`.

Two attacks, whose score is the highest cosine of a real image to the distilled images of its class:

    use          members: the training images that the manifest names as used; others: the other training images
    membership   members: all training images; others: the test images

docs/audit.md says how to read the numbers. Features are those of `measured_run`, or the pixels themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddbench.context import seed_of
from ddbench.runner.embedding import Embedding
from ddbench.runner.measured_run import MeasuredRun
from ddbench.runner.split_copies import split_copies
from ddbench.store import distilled_set
from ddbench.store.audits import (
    MEMBERSHIP,
    RANDOM_IMAGES,
    TEST_IMAGES,
    USE,
    Audit,
    ClosePair,
    Control,
    Copies,
    audit_path,
    baseline_of,
)
from ddbench.store.class_folders import class_files
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import distilled_digest, read_spec, train_id
from ddbench.utils.bases import known_bases
from ddbench.utils.contact_sheet import draw_columns, to_png
from ddbench.utils.files import Stopwatch, read_json, write_bytes, write_json
from ddbench.utils.images import to_array
from ddbench.utils.provenance import describe_environment
from evaluators.audit import LEVEL, Attack, Mask, Rows, Side, background_cosines, draw_rows, highest_cosines

log = logging.getLogger("ddbench")
VERSION = 3  # raise it when the numbers may change
SETS = 10  # control sets of each kind
SURE = 3.29  # deviations: a control without a fault fails once in a thousand audits
SAME = 0.01  # AUC that equal images may cost the control of random training images
PAIRS = 8  # pairs that are shown


def used_images(extras: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the files of the training images that a manifest names as used, by the kind of use.

    files: images of the set. prototypes: images that one was sampled for. starts: images that pixels started from.
    pieces: images that pieces were cut from.
    """
    named = {
        "files": extras.get("files", []),
        "prototypes": [prototype["name"] for prototype in extras.get("prototypes", [])],
        "starts": extras.get("starts", []),
        "pieces": [name for of_image in extras.get("pieces", []) for name in of_image],
    }
    return {kind: list(dict.fromkeys(names)) for kind, names in named.items() if names}


@dataclass(frozen=True)
class ControlRun:
    """A run of plain diffusion on the same images, of the same IPC.

    unseen: its base model never saw a training image, so its set is known to give none away.
    """

    name: str
    content: str
    folder: Path
    unseen: bool


def find_control_runs(run: MeasuredRun) -> list[ControlRun]:
    """Return the runs of `diffusion` beside a run, with untouched and with fine-tuned weights: the first of each."""
    first: dict[str, ControlRun] = {}
    parent = replace(run.spec, method="diffusion").folder(run.settings.runs).parent
    for folder in sorted(parent.glob("seed*-*")):
        if folder.resolve() == run.folder.resolve() or not (folder / "distilled").is_dir():
            continue
        spec = read_spec(folder / "spec.json")
        if (spec.method, spec.fingerprint) != ("diffusion", run.spec.fingerprint):
            continue
        untouched, base = spec.params["weights"] == "none", str(spec.params["base"])
        name = f"diffusion, {base} {'untouched' if untouched else 'fine-tuned'}"
        known = known_bases().get(base)
        unseen = untouched and known is not None and spec.dataset.partition("@")[0] in known.unseen
        first.setdefault(name, ControlRun(name, distilled_digest(folder), folder, unseen))
    return list(first.values())


def audit(run: MeasuredRun, source: str) -> Path:
    """Return the file of the audit of the present distilled set in an embedding; make it if it is missing.

    It is made anew if the set, or a run of plain diffusion beside it, is another one than at that time.

    source: from `embedding_title`. Raises UserError for missing weights, ValueError for a distilled set that was
    changed.
    """
    path, control_runs = audit_path(run.folder, source, VERSION), find_control_runs(run)
    contents = tuple(control.content for control in control_runs)
    if path.exists():
        existing = read_json(path)
        if (existing["content"], tuple(existing["control_runs"])) == (distilled_digest(run.folder), contents):
            return path
    log.info("%s: audit by %s", run.folder, source)
    watch, data, settings = Stopwatch(), run.data, run.settings
    pictures = distilled_set.read(run.folder / "distilled")
    copies = split_copies(data, train_id(run.spec, data), settings.data_paths.shared, settings.quiet)
    embedding = Embedding.of(run, source, copies)
    distilled = Side(embedding.read(pictures.to_tensor()), pictures.labels)
    named = used_images(pictures.extras)
    used = np.isin(data.train.names, [name for names in named.values() for name in names])
    controls = make_controls(embedding, pictures.counts, used)
    for control in control_runs:
        images = distilled_set.read(control.folder / "distilled")
        of_run, expected = Side(embedding.read(images.to_tensor()), images.labels), 0.5 if control.unseen else None
        controls.append(control_of(control.name, USE, [embedding.use(of_run, used)]))
        controls.append(control_of(control.name, MEMBERSHIP, [embedding.membership(of_run)], expected))
    instead = [baseline_of(controls, attack) for attack in (USE, MEMBERSHIP)]
    of_use, of_membership = (0.5 if one is None or one.auc is None else one.auc for one in instead)
    background = background_cosines(embedding.train, generator("background"))
    test_rows = draw_sets(embedding.test, embedding.kept_test, pictures.counts, TEST_IMAGES)[0][0]
    test_images = embedding.test.rows(test_rows)
    pairs, sheet = closest_pairs(run, embedding, distilled, pictures)
    record = Audit(
        version=VERSION,
        by=source,
        weights=embedding.weights,
        trained=embedding.trained,
        run=run.spec.digest,
        content=pictures.content(),
        distilled_images=len(pictures.labels),
        train_images=len(data.train.labels),
        test_images=len(data.test.labels),
        use=embedding.use(distilled, used, of_use),
        named={kind: len(names) for kind, names in named.items()},
        membership=embedding.membership(distilled, baseline=of_membership),
        distances=embedding.distances(distilled, background, generator("ratio")),
        reference=embedding.distances(test_images, background, generator("ratio"), test_rows),
        copies=Copies(copies.exact, copies.near, int(copies.train.sum()), int(copies.test.sum())),
        controls=tuple(controls),
        control_runs=contents,
        pairs=pairs,
        seconds=watch.seconds,
        **describe_environment(run.device),
    )
    write_bytes(path.with_suffix(".png"), sheet)
    write_json(path, asdict(record))
    return path


def generator(*names: str | int) -> np.random.Generator:
    """Return the generator of a draw, the same in every audit."""
    return np.random.default_rng(seed_of(0, "audit", *names))


def make_controls(embedding: Embedding, counts: Sequence[int], used: Mask) -> list[Control]:
    """Return the controls of every audit, each over SETS sets of real images.

    Random training images must be found. Membership must find them and no other training image: an AUC of 0.5 + k / 2n
    for k of n training images. Test images must not be found.
    """
    draws, k, n = draw_sets(embedding.train, embedding.kept_train, counts, RANDOM_IMAGES)
    use, membership = [], []
    for rows in draws:
        images, in_set = embedding.train.rows(rows), np.isin(np.arange(len(used)), rows)
        use.append(embedding.use(images, in_set))
        membership.append(embedding.membership(images))
    controls = [
        control_of(RANDOM_IMAGES, USE, use, 1.0),
        control_of(RANDOM_IMAGES, MEMBERSHIP, membership, 0.5 + k / (2 * n)),
    ]
    draws, _, _ = draw_sets(embedding.test, embedding.kept_test, counts, TEST_IMAGES)
    use = [embedding.use(embedding.test.rows(rows), used) for rows in draws]
    membership = [embedding.membership(embedding.test.rows(rows), rows) for rows in draws]
    return [*controls, control_of(TEST_IMAGES, USE, use), control_of(TEST_IMAGES, MEMBERSHIP, membership, 0.5)]


def draw_sets(side: Side, kept: Mask, counts: Sequence[int], name: str) -> tuple[list[Rows], int, int]:
    """Return the rows of SETS sets of `counts` kept images of each class, at most half of a class.

    Also returns the number of images of a set, and of all kept images. Raises ValueError without a class of two.
    """
    rows: Rows = np.flatnonzero(kept)
    few = np.minimum(counts, np.bincount(side.labels[rows], minlength=len(counts)) // 2)
    if not few.any():
        copies = "without a copy on the other side of the split"
        raise ValueError(f"there are no controls: no class has two {name.removeprefix('random ')} {copies}")
    draws: list[Rows] = [rows[draw_rows(side.labels[rows], few, generator(name, index))] for index in range(SETS)]
    return draws, int(few.sum()), len(rows)


def control_of(name: str, kind: str, results: Sequence[Attack | None], expected: float | None = None) -> Control:
    """Return the mean of an attack on control sets. Its tolerance is that of one set, so a mean keeps it more often."""
    measured = [result for result in results if result]
    if not measured:
        return Control(name, kind, None, expected)
    half_width = (measured[0].auc_high - measured[0].auc_low) / 2
    tolerance = SAME if kind == USE else half_width * SURE / LEVEL
    auc, tpr = (float(np.mean([getattr(result, name) for result in measured])) for name in ("auc", "tpr"))
    return Control(name, kind, auc, expected, tolerance, tpr)


def closest_pairs(
    run: MeasuredRun, embedding: Embedding, distilled: Side, pictures: Pictures
) -> tuple[tuple[ClosePair, ...], bytes]:
    """Return the closest pair of each class, of the PAIRS closest classes, and a sheet of them as a PNG file."""
    files = class_files(run.folder / "distilled")
    names = [f"{name}/{path.name}" for name in pictures.classes for path in files[name]]
    (to_train, train_rows), (to_test, test_rows) = (
        highest_cosines(distilled, side) for side in (embedding.train, embedding.test)
    )
    of_class = [np.flatnonzero(distilled.labels == label) for label in np.unique(distilled.labels)]
    firsts = np.array([rows[to_train[rows].argmax()] for rows in of_class])
    closest = firsts[np.argsort(-to_train[firsts].round(5), kind="stable")][:PAIRS]
    train, test = run.data.train, run.data.test
    pairs = tuple(
        ClosePair(names[i], train.names[train_rows[i]], float(to_train[i]), test.names[test_rows[i]], float(to_test[i]))
        for i in closest
    )
    columns = [
        ("distilled", list(pictures.images[closest][:, None])),
        ("nearest training image", list(to_array(train.images[train_rows[closest]])[:, None])),
        ("nearest test image", list(to_array(test.images[test_rows[closest]])[:, None])),
    ]
    lines = [f"{pair.distilled}: {pair.to_train:.3f}, {pair.to_test:.3f}" for pair in pairs]
    return pairs, to_png(draw_columns(columns, lines))
