"""What a method is given besides the images: seeds, a device, folders, stages shared between runs."""

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
from tqdm.auto import tqdm

from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import Stopwatch, digest, make_once, read_json, write_json
from ddbench.utils.memory import Peak

T = TypeVar("T")

log = logging.getLogger("ddbench")


def show_loss(bar: Iterable[Any], loss: float) -> None:
    """Show the loss behind a bar of `Context.progress`."""
    if isinstance(bar, tqdm):
        bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a run's seed and what the draw is for: adding a draw elsewhere never moves this one."""
    text = "\0".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_of(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with `seed_of(seed, *names)`."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


@contextmanager
def global_seed(seed: int, where: torch.device) -> Iterator[None]:
    """Global generators seeded inside and as they were outside: a net under libraries that draw from them."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
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
        """A CPU generator of its own for what `names` says is drawn."""
        return generator_of(self.seed, *names)

    def stage(self, name: str, make: Callable[[Path], Any], *, together: bool = False, **key: Any) -> Path:
        """The folder `<shared>/<name>-<hash>`, made once by `make(folder)` and shared by every run with the same key.

        The hash covers the name, the key (JSON values), the method with its version and the training images; neither
        the seed nor the IPC unless they are in the key. `make` gets an empty hidden folder, renamed when it returns:
        existence means complete. A dict that it returns (figures, such as the steps taken) is kept in stage.json and in
        `costs`; `earlier_seconds` in it are added to the stage's, those of stages made inside are taken off. There
        `waited` says how long another process, which was making it, was waited for. Of several processes the lead makes
        it while the others wait; with `together` all of them call `make`, on the same folder, into which only the lead
        may write, and then `make` may have stages inside.
        """
        identity = {"stage": name, "train": self.train_id, "method": self.method, **key}
        folder = self.shared / f"{name}-{digest(identity)[:16]}"
        watch = Stopwatch()
        made = self._made(folder, make, identity, together)
        waited = {} if made else {"waited": watch.seconds}
        record = read_json(folder / "stage.json")
        log.info("%s: %s %s", name, f"made in {record['seconds']:.1f} s," if made else "reused", folder)
        figures = {k: v for k, v in record.items() if k != "key"}
        self.costs.append({"stage": name, "reused": not made, "folder": folder.name, **waited, **figures})
        return folder

    @contextmanager
    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Time and peak memory of a part that is no stage, in `costs`; more figures may be put into what it yields."""
        figures: dict[str, Any] = {"stage": name, "reused": False}
        watch, peak = Stopwatch(), Peak(self.device)
        yield figures
        self.costs.append(figures | {"seconds": watch.seconds, **peak.figures()})

    def _made(self, folder: Path, make: Callable[[Path], Any], identity: dict[str, Any], together: bool) -> bool:
        """Whether the folder was made now. All processes leave together, when it is there."""
        if self.processes.is_lead:
            made = make_once(folder, lambda partial: self._make(partial, make, identity))
            if not made:
                self.processes.broadcast(None)
        else:
            partial = self.processes.broadcast()
            made = partial is not None
            if made and together:
                make(Path(partial))
        return bool(self.processes.broadcast(made))

    def _make(self, partial: Path, make: Callable[[Path], Any], identity: dict[str, Any]) -> None:
        log.info("%s: making it", identity["stage"])
        self.processes.broadcast(str(partial))
        watch, peak, before = Stopwatch(), Peak(self.device), len(self.costs)
        made = make(partial)
        figures = made if isinstance(made, dict) else {}
        within = sum(cost["seconds"] for cost in self.costs[before:] if not cost["reused"])
        seconds = watch.seconds - within + figures.get("earlier_seconds", 0.0)
        write_json(partial / "stage.json", {"key": identity, "seconds": seconds, **peak.figures(), **figures})

    def progress(self, iterable: Iterable[T], desc: str, total: int | None = None) -> Iterable[T]:
        """The iterable, with a bar on standard error."""
        hidden = self.quiet or not self.processes.is_lead
        return tqdm(iterable, desc=desc, total=total, disable=hidden, leave=False, dynamic_ncols=True)
