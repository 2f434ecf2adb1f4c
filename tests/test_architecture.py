"""Who may import whom, and what must not be imported at all where an answer should be instant."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ddbench
import evaluators

ROOTS = {"ddbench": Path(ddbench.__file__).parent, "evaluators": Path(evaluators.__file__).parent}
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "peft", "sklearn", "scipy")

PLAIN = ("ddbench.types", "ddbench.context", "ddbench.utils.files", "ddbench.errors", "ddbench.utils.distributed")
TEACHERS = ("evaluators.students", "evaluators.augment", "evaluators.dsa", "evaluators.train",
            "evaluators.recipes")  # fmt: skip
ROWS = ("evaluators.protocols", "evaluators.recipes", "evaluators.catalog")
READ_BACK = ("ddbench.store.records", "ddbench.store.reader", "ddbench.store.distilled_set", "ddbench.utils.files", "ddbench.errors")

# module (or package) -> what it may import of ours; the longest matching prefix counts
ARROWS = {
    "evaluators": ("evaluators",),
    "ddbench.errors": (),
    "ddbench.utils.files": (),
    "ddbench.utils.memory": (),
    "ddbench.utils.distributed": (),
    "ddbench.context": ("ddbench.utils.files", "ddbench.utils.memory", "ddbench.utils.distributed"),
    "ddbench.types": ("ddbench.context",),
    "ddbench.config": ("ddbench.errors",),
    "ddbench.registry": ("ddbench.errors", "ddbench.datasets", "ddbench.protocols", *ROWS),
    "ddbench.protocols": ("ddbench.errors", "ddbench.utils.files", "ddbench.config", *ROWS),
    "ddbench.store.records": ("ddbench.utils.files", "evaluators"),  # its VERSION
    "ddbench.store.reader": ("ddbench.store.records", "ddbench.utils.files"),
    "ddbench.spent": ("ddbench.utils.files",),
    "ddbench.store.distilled_set": ("ddbench.utils.files",),
    "ddbench.utils.contact_sheet": ("ddbench.store.distilled_set",),
    "ddbench.datasets.preview": ("ddbench.utils.contact_sheet", "ddbench.store.distilled_set", "ddbench.utils.files", "ddbench.types",
                      "ddbench.datasets.info"),
    "ddbench.utils.provenance": ("ddbench", "evaluators"),
    "ddbench.leaderboard.statistics": (),
    "ddbench.leaderboard.table": (*READ_BACK, "ddbench.leaderboard.statistics"),
    "ddbench.leaderboard.ranking_robustness": (*READ_BACK, "ddbench.leaderboard.table"),
    "ddbench.leaderboard.extra_columns": (*READ_BACK, "ddbench.leaderboard.table", "ddbench.leaderboard.statistics"),
    "ddbench.leaderboard.latex": ("ddbench.leaderboard.table",),
    "ddbench.leaderboard.reported": ("ddbench.leaderboard.table", "ddbench.config", "ddbench.utils.files", "ddbench.errors"),
    "ddbench.leaderboard.render": (*READ_BACK, "ddbench.leaderboard.table", "ddbench.leaderboard.extra_columns", "ddbench.leaderboard.latex", "ddbench.leaderboard.reported"),
    "ddbench.datasets": (*PLAIN, "ddbench.datasets"),
    "ddbench.methods": (*PLAIN, *TEACHERS, "ddbench.methods"),
    # the command that trains the embedded base model: it is not a method, and reads training images itself
    "ddbench.base_model": (*PLAIN, *TEACHERS, "ddbench.base_model", "ddbench.methods", "ddbench.datasets"),
    "ddbench.runner.plan": ("ddbench.store.records", "ddbench.utils.files", "ddbench.errors", "ddbench.config", "ddbench.registry",
                         "ddbench.datasets.info", "evaluators.catalog"),
    "ddbench.runner.run": (*READ_BACK, "ddbench.utils.distributed", "ddbench.runner.plan", "ddbench.utils.contact_sheet", "ddbench.runner.distillation",
                       "ddbench.runner.evaluation", "ddbench.types"),
    "ddbench.sweep.grid": ("ddbench.runner.plan", "ddbench.registry", "ddbench.config", "ddbench.store.records", "ddbench.store.reader",
                       "ddbench.spent", "ddbench.utils.files", "ddbench.errors", "ddbench.datasets.info"),
    "ddbench.sweep.workers": ("ddbench.sweep.grid", "ddbench.runner.plan", "ddbench.runner.run", "ddbench.store.records", "ddbench.errors"),
    "ddbench.report": (*READ_BACK, "ddbench", "ddbench.report", "ddbench.leaderboard.table"),
    "ddbench.store.merge": ("ddbench.runner.run", "ddbench.store.records", "ddbench.store.reader", "ddbench.utils.files", "ddbench.errors"),
    "ddbench.runner.distillation": (*READ_BACK, *PLAIN, "ddbench.utils.provenance", "ddbench.utils.memory", "ddbench.runner.plan"),
    "ddbench.runner.evaluation": (*READ_BACK, *PLAIN, "ddbench.utils.memory", "ddbench.runner.plan", "ddbench.runner.distillation", "ddbench.runner.teacher",
                        "evaluators"),
    "ddbench.runner.quality": (*READ_BACK, *PLAIN, "ddbench.runner.plan", "ddbench.runner.distillation", "ddbench.runner.evaluation", "ddbench.runner.teacher",
                        "evaluators"),
    "ddbench.runner.teacher": ("ddbench.runner.distillation", "ddbench.utils.files", "ddbench.utils.memory", "ddbench.types", "evaluators"),
    "ddbench.runner.external": (*READ_BACK, *PLAIN, "ddbench.runner.plan", "ddbench.registry", "ddbench.datasets"),
    "ddbench.testing": (*PLAIN, "ddbench.config", "ddbench.runner.distillation", "ddbench.datasets.scenes.painter"),
    "ddbench.cli": ("ddbench", "evaluators"),
    "ddbench.cli.main": ("ddbench", "ddbench.cli"),
    "ddbench.__main__": ("ddbench.cli.main",),
    "ddbench": (),
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for package, root in ROOTS.items():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def ours(text: str) -> set[str]:
    """The modules of ddbench and evaluators that a source text imports, in functions too; the innermost only."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide an arrow"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    known = {name for name, _ in MODULES}
    return {name for name in found & known if not any(other.startswith(f"{name}.") for other in found & known)}


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def allowed(name: str) -> tuple[str, ...]:
    return ARROWS[max((prefix for prefix in ARROWS if within(name, (prefix,))), key=len)]


MODULES = tuple(modules())


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_follow_the_arrows(name, path):
    assert [other for other in sorted(ours(path.read_text())) if not within(other, allowed(name))] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("evaluators.train", "from ddbench.types import ImageSet"),
        ("evaluators.train", "def f():\n    import ddbench.utils.files"),
        ("ddbench.methods.random", "from evaluators import accuracy"),
        ("ddbench.methods.random", "from evaluators.protocols import protocol"),
        ("ddbench.methods.dpd.distiller", "from ddbench.datasets.scenes.source import SCENES"),
        ("ddbench.methods.random", "from ddbench import runner"),
        ("ddbench.datasets.rs.ucm", "import ddbench.methods.random"),
        ("ddbench.leaderboard.table", "from ddbench.runner.plan import Plan"),
        ("ddbench.store.records", "from ddbench import runner"),
    ],
)
def test_a_wrong_arrow_would_be_found(name, line):
    assert [other for other in ours(line) if not within(other, allowed(name))]


def python(text: str, *, cwd: Path | None = None) -> str:
    """The standard output of a fresh interpreter."""
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each command in turn in one interpreter: what one of them imports would still be there at the end.
LIGHT = """
import sys
from click.testing import CliRunner
from ddbench.cli.main import cli
for words in {commands}:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == {status}, (words, result.output)
    heavy = [name for name in {heavy} if name in sys.modules]
    assert not heavy, (words, heavy)
"""


def light(commands: list[list[str]], cwd: Path, status: int = 0, heavy: tuple[str, ...] = HEAVY) -> None:
    python(LIGHT.format(commands=commands, heavy=heavy, status=status), cwd=cwd)


def test_help_list_and_leaderboard_do_not_import_torch(tmp_path):
    from test_runs import write

    write(tmp_path / "runs")
    lists = [["list", what] for what in ("methods", "datasets", "students", "protocols", "presets")]
    boards = [["leaderboard", "--format", form] for form in ("text", "markdown", "latex", "csv", "json")]
    helps = [[*words, "--help"] for words in ([], ["run"], ["leaderboard"], ["data"], ["data", "prepare"])]
    boards += [["robustness"], ["robustness", "--format", "json"]]
    light([*helps, *lists, *boards, ["data", "list"], ["show", "scenes"], ["show", "quick"]], tmp_path)


def test_words_that_are_off_are_found_without_torch(tmp_path):
    run = ["--data-root", "nowhere", "run", "--method", "random", "--dataset", "scenes", "--ipc", "1"]
    wrong = [["--method", "x"], ["--dataset", "x"], ["--student", "x"], ["--protocol", "x"], ["--dataset", "ucm"]]
    light([[*run, *words] for words in wrong], tmp_path, status=2)


def test_the_heavy_import_would_be_noticed(tmp_path):
    with pytest.raises(AssertionError, match="tabulate"):
        light([["show", "scenes"]], tmp_path, heavy=("tabulate",))
