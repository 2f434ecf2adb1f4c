"""Small inputs and five kinds of runs, in forked processes, for benchmarks/campaign.py."""

from __future__ import annotations

import importlib
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from campaign_compare import Place, compare, snapshot
from PIL import Image

from ddbench.datasets.scenes import painter

SIZE, CLASSES, TRAIN, TEST = 32, 4, 12, 6  # px, classes of `scenes`, images per class
PATIENCE = 300  # seconds after which a command counts as hanging
PROTOCOL = 'like = "quick@1"\n[recipes.convnet]\nbatch = 4\nmin_steps = 2\nmax_steps = 2\n'
METHODS = {
    "selection": ("herding", {"trained": "false"}),
    "pixels": ("dm", {"iterations": 4, "batch": 4}),
    "diffusion": (
        "diffusion",
        {"base": "tiny", "tune_steps": 3, "tune_batch": 4, "tune_warmup": 1, "steps": 2},
    ),
    "teacher": ("rded", {"teacher": "convnet", "epochs": 1, "least": 3, "most": 3, "crops": 2}),
}
KINDS = (*METHODS, "sweep")
PLAN = """datasets = ["folder:{images}"]
ipcs = [2]
sizes = [{size}]
student_seeds = 2
protocols = ["{protocol}"]
methods = ["random", {{ method = "dm", set = ["iterations=2", "batch=4"] }}]
"""
MODULES = (
    "torch", "kornia", "peft", "ddbench.runner.distillation", "ddbench.runner.evaluation", "ddbench.cli.main",
    "ddbench.sweep.workers", "ddbench.methods.herding", "ddbench.methods.dm", "ddbench.methods.random",
    "ddbench.methods.rded", "ddbench.methods.plain_diffusion", "ddbench.methods.latent_diffusion.model",
    "diffusers.models.autoencoders.autoencoder_dc", "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
    "ddbench.leaderboard.render", "ddbench.store.merge", "scipy.stats", "concurrent.futures.process",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """A folder of images of `scenes`, a protocol of a few steps and a plan of two jobs, below `folder`."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.toml"

    def write(self) -> None:
        for side, start, count in (("train", painter.TRAIN_START, TRAIN), ("test", painter.TEST_START, TEST)):
            for label, name in enumerate(painter.CLASSES[:CLASSES]):
                folder = self.images / side / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(painter.scene(label, start + i, SIZE)).save(folder / f"{i:03d}.png")
        protocol = self.folder / "short.toml"
        protocol.write_text(PROTOCOL)
        self.plan.write_text(PLAN.format(images=self.images, size=SIZE, protocol=protocol))

    def command(self, kind: str, runs: Path, shared: Path) -> list[str]:
        """Return the words after `ddbench` of a run of this kind."""
        head = ["--runs", runs, "--shared", shared, "--device", "cpu"]
        if kind == "sweep":
            return [str(word) for word in (*head, "sweep", self.plan)]
        method, settings = METHODS[kind]
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        what = ["run", "--method", method, "--dataset", f"folder:{self.images}", "--ipc", 2, "--size", SIZE, *sets]
        how = ["--protocol", self.folder / "short.toml", "--student-seeds", 2]
        return [str(word) for word in (*head, *what, *how)]


@dataclass
class Process:
    """A forked command: its process, which leads a group of its own, and the file of its output."""

    pid: int
    log: Path
    status: int | None = None

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait_for(self, place: Place) -> None:
        """Return when the command has written its first file, or has ended."""
        while not place.begun() and not self.ended():
            time.sleep(0.002)

    def wait(self) -> int:
        """Return the exit status; that of SIGKILL after PATIENCE seconds."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended():
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.01)
        assert self.status is not None
        return self.status

    def kill(self, victim: int | None = None) -> None:
        """Send SIGKILL to the process group, or to one process of it."""
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL) if victim else os.killpg(self.pid, signal.SIGKILL)

    def children(self) -> list[int]:
        """Return the processes that any thread of the command has started."""
        try:
            lists = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/children")]
        except OSError:
            return []
        return [int(word) for text in lists for word in text.split()]

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


def warm_up() -> None:
    """Import what the commands import, so that a forked command starts at once; nothing may have started a thread."""
    for name in MODULES:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    importlib.import_module("ddbench.utils.provenance").commit()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise SystemExit(f"{threads} threads after importing: their locks could block a forked process")


def start(words: Iterable[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Process:
    """Run `ddbench WORDS` in a fork of this process, after `prepare()`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Process(pid, log)
    status = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        _set_for_campaign()
        prepare()
        from ddbench.cli.main import cli

        cli(list(words), prog_name="ddbench")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _set_for_campaign() -> None:
    """Write a checkpoint after every step, and fork the processes of a sweep too."""
    from ddbench.sweep import workers
    from ddbench.utils.checkpoint import Checkpoint

    Checkpoint.__init__.__defaults__ = (0.0, True)
    fork, popen, one_at_a_time = multiprocessing.get_context("fork"), ForkProcess._Popen, threading.Lock()

    def locked(process: ForkProcess) -> object:  # a process that another thread forks would keep this one's pipe open
        with one_at_a_time:
            return popen(process)

    ForkProcess._Popen = staticmethod(locked)
    workers.multiprocessing = SimpleNamespace(**vars(multiprocessing) | {"get_context": lambda kind: fork})


class Operations:
    """A counter of the file operations of a command and of its processes: opening for writing, mkdir, rename, remove.

    At operation number `at` it calls `act(self)` once. Python's audit hooks give the operations, so what Rust and C++
    write is seen at the rename only.
    """

    EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"})

    def __init__(self, place: Place, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.roots, self.at, self.act = (str(place.runs), str(place.shared)), at, act
        self._memory = mmap.mmap(-1, 8)  # shared with forked processes
        self._inside = False

    @property
    def count(self) -> int:
        return int(struct.unpack("q", self._memory[:8])[0])

    def watch(self) -> None:
        """Begin to count in this process and its forks."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in self.EVENTS or self._inside:
            return
        path = arguments[0]
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes or not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.roots):
            return
        number = self.count
        self._memory[:8] = struct.pack("q", number + 1)
        if number == self.at:
            self._inside = True
            self.act()
            self._inside = False


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its files, the seconds to its first file and to its end, its number of file operations."""

    files: dict[str, bytes | None]
    first: float
    whole: float
    operations: int


def undisturbed(inputs: Inputs, kind: str, place: Place) -> Reference:
    """Run a kind twice, once to measure and once to show that two runs are equal."""
    references = []
    for number in range(2):
        here = Place.below(place.folder / f"{kind}-{number}")
        counter, begin = Operations(here), time.monotonic()
        process = start(inputs.command(kind, here.runs, here.shared), here.folder / "log", counter.watch)
        process.wait_for(here)
        first = time.monotonic() - begin
        if process.wait():
            raise SystemExit(f"{kind}: an undisturbed run failed:\n{process.text}")
        references.append(Reference(snapshot(here), first, time.monotonic() - begin, counter.count))
        if difference := compare(references[0].files, here):
            raise SystemExit(f"{kind}: two undisturbed runs differ: {difference}")
    return replace(references[0], first=references[1].first, whole=references[1].whole)
