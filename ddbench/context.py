"""The context of a run: named seeds, device, folders, stages shared between runs."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import Stopwatch, digest, make_once, read_json, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.progress import progress_bar

T = TypeVar("T")

log = logging.getLogger("ddbench")


def show_loss(bar: Iterable[Any], loss: float) -> None:
    """Show the loss behind a bar of `Context.progress`."""
    if isinstance(bar, tqdm):
        bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)


def seed_of(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed from a run's seed and the names of a draw: another draw, added later, does not move it."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator seeded with `seed_of(seed, *names)`."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators inside the `with` and restore them after it, for libraries that draw from them."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@dataclass(frozen=True)
class Context:
    """The surroundings of one run.

    seed: seed of the run.
    device: the device to compute on.
    workdir: a folder private to this run; may hold partial work.
    shared: the folder of the stages.
    train_id: identity of the training images (split fingerprint and size); part of every stage's key.
    quiet: no progress bars.
    method: the method with its version; part of every stage's key.
    processes: the processes of this launch. A method with `parallel = True` is called in each, any other in one.
    costs: filled by `stage` and `measure`, written to distill.json.
    """

    seed: int
    device: torch.device
    workdir: Path
    shared: Path
    train_id: str
    quiet: bool = False
    method: str = ""
    processes: ProcessGroup = SINGLE_PROCESS
    costs: list[dict[str, Any]] = field(default_factory=list)

    def generator(self, *names: str | int) -> torch.Generator:
        """Return a new CPU generator for the draw that `names` describe; see `seed_of`."""
        return generator_of(self.seed, *names)

    def stage(self, name: str, make: Callable[[Path], Any], *, together: bool = False, **key: Any) -> Path:
        """Return the folder `<shared>/<name>-<hash>`, made once and shared by every run with the same key.

        The hash covers the name, the key (JSON values), the method with its version and the training images. Put the
        seed or the IPC into the key where `make` depends on them.

        `make(folder)` fills an empty hidden folder, which is renamed when it returns: existence means complete. A dict
        that it returns (such as the steps taken) is stored in stage.json and in `costs`. `earlier_seconds` in it are
        added to the stage's seconds; the seconds of stages inside are subtracted. `waited`: seconds spent waiting for
        another process that was making the stage.

        With several processes the lead makes it while the others wait. With `together` all of them call `make` on the
        same folder; only the lead may write there, and `make` may have stages inside.
        """
        identity = {"stage": name, "train": self.train_id, "method": self.method, **key}
        folder = self.shared / f"{name}-{digest(identity)[:16]}"
        watch = Stopwatch()
        is_new = self._make_or_wait(folder, make, identity, together)
        waited = {} if is_new else {"waited": watch.seconds}
        record = read_json(folder / "stage.json")
        log.info("%s: %s %s", name, f"computed in {record['seconds']:.1f} s," if is_new else "reused", folder)
        figures = {k: v for k, v in record.items() if k != "key"}
        self.costs.append({"stage": name, "reused": not is_new, "folder": folder.name, **waited, **figures})
        return folder

    @contextmanager
    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Add the time and peak memory of a part that is no stage to `costs`, with the figures put into its dict."""
        figures: dict[str, Any] = {"stage": name, "reused": False}
        watch, peak = Stopwatch(), Peak(self.device)
        yield figures
        self.costs.append(figures | {"seconds": watch.seconds, **peak.figures()})

    def _make_or_wait(
        self, folder: Path, make: Callable[[Path], Any], identity: dict[str, Any], together: bool
    ) -> bool:
        """Return True where the folder was made now. All processes return together, when it exists."""

        def fill(partial: Path) -> None:
            log.info("%s: computing it", identity["stage"])
            self.processes.broadcast(str(partial))
            watch, peak, before = Stopwatch(), Peak(self.device), len(self.costs)
            returned = make(partial)
            figures = returned if isinstance(returned, dict) else {}
            inside = sum(cost["seconds"] for cost in self.costs[before:] if not cost["reused"])
            seconds = watch.seconds - inside + figures.get("earlier_seconds", 0.0)
            write_json(partial / "stage.json", {"key": identity, "seconds": seconds, **peak.figures(), **figures})

        if self.processes.is_lead:
            is_new = make_once(folder, fill)
            if not is_new:
                self.processes.broadcast(None)
        else:
            partial = self.processes.broadcast()
            is_new = partial is not None
            if is_new and together:
                make(Path(partial))
        return bool(self.processes.broadcast(is_new))

    def progress(self, iterable: Iterable[T], desc: str, total: int | None = None) -> Iterable[T]:
        """Return the iterable with its progress on standard error: a bar on a terminal, else a line now and then."""
        return progress_bar(iterable, desc=desc, total=total, hidden=self.quiet or not self.processes.is_lead)
