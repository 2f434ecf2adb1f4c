"""Write a safetensors file batch by batch, so that memory does not grow with the number of rows. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

DTYPES = {"<f2": "F16", "<f4": "F32"}
ALIGNMENT = 8  # bytes of which the header's length is a multiple


def write_rows(path: Path, count: int, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write tensors of `count` rows; the file is that of safetensors' own `save_file`, byte for byte.

    parts: the next rows of every tensor by name, float16 or float32 (k, ...), one batch after another.

    Raises ValueError for another number of rows.
    """
    batches = iter(parts)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{path}: no rows instead of {count}")
    header, offset = {}, 0
    for name, rows in sorted(first.items(), key=lambda item: (-item[1].itemsize, item[0])):
        end = offset + count * rows[0].nbytes
        shape = [count, *rows.shape[1:]]
        header[name] = {"dtype": DTYPES[rows.dtype.str], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        start, written = out.tell(), 0
        for batch in chain([first], batches):
            for name, rows in batch.items():
                out.seek(start + header[name]["data_offsets"][0] + written * rows[0].nbytes)
                out.write(np.ascontiguousarray(rows).data)
            written += len(rows)
    if written != count:
        raise ValueError(f"{path}: {written} rows instead of {count}")
