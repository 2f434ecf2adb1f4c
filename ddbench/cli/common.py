"""Options, logging, exit status and tables that all commands share. No torch."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from ddbench.errors import DISK_ERRORS, UserError, disk_error
from ddbench.leaderboard.plain_table import TABLE_FORMATS as TABLE_FORMATS
from ddbench.leaderboard.plain_table import format_table as format_table
from ddbench.leaderboard.plain_table import text_table as text_table
from ddbench.runner.options import SMALLEST
from ddbench.store.paths import is_inside_run
from ddbench.utils.limits import LARGEST_SIZE

if TYPE_CHECKING:
    from ddbench.store.records import StoredResult

UNWRITABLE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP,
              errno.ENAMETOOLONG, errno.EFBIG, *DISK_ERRORS}  # fmt: skip
FULL = {errno.ENOSPC, errno.EDQUOT}
SIZE = click.IntRange(SMALLEST, LARGEST_SIZE)
KINDS = ("methods", "datasets", "students", "protocols", "bases")
SIZE_HELP = "Side of the images in pixels.  [default: the dataset's own]"

Command = TypeVar("Command", bound=Callable[..., Any])

log = logging.getLogger("ddbench")


class UserPath(click.Path):
    """A path: "~" is the user's home, as in `folder:PATH`. A blank text, as of an unset variable, is refused."""

    def __init__(self, **checks: Any) -> None:
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        text = os.fspath(value)
        if not text.strip():
            self.fail("a blank text names no file and no folder", param, ctx)
        path = cast(Path, super().convert(os.path.expanduser(text), param, ctx))
        if not self.file_okay and (path.is_symlink() or path.exists()) and not path.is_dir():
            self.fail(f"{path} is a pipe, a device or a link that leads nowhere: name a folder", param, ctx)
        return path


class RunsFolder(UserPath):
    """A folder of runs, or an exported file; either need not exist. A pipe, a device and a lost link are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if (path.is_symlink() or path.exists()) and not (path.is_dir() or path.is_file()):
            self.fail(f"{path} is a pipe, a device or a link that leads nowhere: name a folder", param, ctx)
        return path


class OutputFile(UserPath):
    """A file to write: refused where a link, a device or a run's own file is in its place."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if str(path) == "-" or os.fspath(value).endswith(os.sep):
            self.fail(f"{value} is no name of a file: name a file", param, ctx)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            self.fail(f"{path} is a link or a device, not a file: name a file", param, ctx)
        if is_inside_run(path):
            self.fail(f"{path} is in the folder of a run, which holds its own files only: name another", param, ctx)
        return path


class NameType(click.ParamType):
    """A name of some of KINDS, or of a method's presets. The shell completes it; the commands check it themselves."""

    name = "text"

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin like this; of a method's presets, those of the command's --method."""
        if self.kinds == ("presets",):
            names: Iterable[str] = preset_names(ctx.params.get("method") or "")
        else:
            names = (name for kind in self.kinds for name in names_of(kind))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


METHOD, DATASET, STUDENT, PROTOCOL, _ = (NameType(kind) for kind in KINDS)
PRESET, ANY_NAME = NameType("presets"), NameType(*KINDS)


def preset_names(method: str) -> list[str]:
    """Return the presets of a registered method, sorted; nothing is imported from it. None for any other text."""
    from ddbench.config import preset_files
    from ddbench.registry import module_file

    file = module_file(method)
    return sorted(preset_files(file, method)) if file else []


class UsageFailure(click.ClickException):
    """A UserError as click prints it."""

    exit_code = 2


class Group(click.Group):
    """A group that prints a UserError, or the error of a disk that cannot be written, and exits with status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise UsageFailure(str(error)) from error
        except Exception as error:
            of_path = isinstance(error, OSError) and error.errno in UNWRITABLE
            problem = error if of_path else disk_error(error)
            if not isinstance(problem, OSError):
                raise
            done = "written" if problem.errno in DISK_ERRORS else "used"
            advice = "free space" if problem.errno in FULL else "change that, or name another folder or file"
            path = problem.filename or "a file"
            raise UsageFailure(
                f"{path} cannot be {done} ({problem.strerror}): {advice}; the same command then goes on"
            ) from error


class Stderr(logging.Handler):
    """Handler that writes log lines to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        with suppress(BrokenPipeError):  # `2>&1 | head`: a reader that left is no failure of a run
            if "tqdm" in sys.modules and sys.stderr.isatty():
                sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)


def log_to_stderr(level: int) -> None:
    """Send the log of ddbench to standard error. Further calls add no second handler."""
    handler = Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(level)


def filter_results(entries: Iterable[StoredResult], **values: Any) -> list[StoredResult]:
    """Return the results whose spec has these values; None matches anything."""
    fixed = {name: value for name, value in values.items() if value is not None}
    return [entry for entry in entries if all(getattr(entry.spec, name) == value for name, value in fixed.items())]


def help_list(head: str, lines: Mapping[str, str]) -> str:
    """Format names and their explanations as a block at the end of a command's help."""
    width = max(map(len, lines))
    return "\n".join(["\b", head, *(f"  {name:{width}}  {text}" for name, text in lines.items())])


def format_option(default: str = "text", forms: Sequence[str] = TABLE_FORMATS) -> Callable[[Command], Command]:
    """Return the option --format; the command gets it as `form`."""
    return click.option(
        "--format", "form", type=click.Choice(forms), default=default, show_default=True, help="Output format."
    )


def names_of(kind: str) -> tuple[str, ...]:
    """Return all names of one of KINDS, sorted. Loads no plugin."""
    if kind in ("methods", "datasets"):
        from ddbench.registry import names

        return names(kind)
    if kind == "bases":
        from ddbench.utils.bases import known_bases

        return tuple(known_bases())
    from ddbench.protocols import protocol_names, student_names

    return student_names() if kind == "students" else protocol_names()
