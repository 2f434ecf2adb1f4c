"""Images and models that a request reads: their sizes, whether they are here, and the commands that get them.

No torch, but for the modules of methods that load models. Nothing is downloaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ddbench.config import build
from ddbench.datasets.info import DatasetInfo, MissingDataError
from ddbench.datasets.lookup import ImageSource, find_dataset
from ddbench.errors import UserError
from ddbench.registry import load_method, module_file
from ddbench.utils.bases import is_local, size_of
from ddbench.utils.units import format_bytes

MODEL_MODULES = re.compile(r"ddbench\.methods\.(latent_diffusion|dpd)")  # the methods that load models import these


@dataclass(frozen=True)
class Need:
    """A dataset or a model that a run reads.

    use: "dataset", or the setting that names a model, such as "base".
    name: of the dataset; hub id or folder of the model.
    size: bytes to download; 0 if unknown.
    present: True if it is on this machine.
    command: the command that gets it; empty if it is here.
    """

    use: str
    name: str
    size: int
    present: bool
    command: str

    def __str__(self) -> str:
        size = f"{format_bytes(self.size)} to download" if self.size else "size unknown"
        return f"{self.use} {self.name}: {size}; {self.command}"


def dataset_need(source: ImageSource, present: bool) -> Need:
    """Return a dataset as a need."""
    if not isinstance(source, DatasetInfo):
        return Need("dataset", source.name, 0, present, "")
    way = "" if source.address or source.copy else " --from ARCHIVE_OR_FOLDER"
    command = "" if present else f"ddbench data prepare {source.base}{way}"
    return Need("dataset", source.name, source.download_size, present, command)


def model_needs(
    method: str, preset: str | None = None, config: Path | None = None, sets: tuple[str, ...] = ()
) -> list[Need]:
    """Return the models that a method loads with these settings. Raises UserError for wrong ones.

    The module of a registered method is imported only if it imports the modules that load models.
    """
    file = module_file(method) if ":" not in method else None
    if file and not MODEL_MODULES.search(file.read_text(encoding="utf-8")):
        return []
    models = build(load_method(method), preset, config, sets).models()
    command = "hf download {}, or the run itself when it begins"
    return [
        Need(use, name, size_of(name), (here := is_local(name)), "" if here else command.format(name))
        for use, name in models.items()
    ]


def missing_data_error(error: MissingDataError, dataset: str | ImageSource, models: list[Need]) -> MissingDataError:
    """Return the error for missing images, with the size of their download and all models that are missing too."""
    try:
        source = find_dataset(dataset) if isinstance(dataset, str) else dataset
    except UserError:
        return error
    needs = [dataset_need(source, False), *(need for need in models if not need.present)]
    lines = [str(error), "Missing:" if len(needs) == 1 else "Missing, all of it:", *(f"  {need}" for need in needs)]
    if len(needs) > 1:
        lines.append("Nothing to download but the dataset: --preset tiny, which runs on the embedded base model.")
    return MissingDataError("\n".join(lines))
