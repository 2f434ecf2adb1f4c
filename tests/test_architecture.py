"""Who may import whom, and what must not be imported at all where an answer should be instant."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ddbench
import evaluators

ROOTS = {"ddbench": Path(ddbench.__file__).parent, "evaluators": Path(evaluators.__file__).parent}
HEAVY = ("torch", "torchvision", "kornia", "diffusers", "transformers", "peft", "sklearn", "scipy")

# module or package -> what it may import besides itself, in functions too; the longest matching prefix counts, and
# what an ancestor may import its parts may import. A name stands for all that is below it.
ARROWS = {
    "evaluators": "",
    "ddbench": "api errors version",
    "ddbench.version": "",
    "ddbench.api": "sweep runner leaderboard report store datasets registry protocols types errors utils",
    "ddbench.__main__": "cli",
    "ddbench.utils": "errors evaluators version",
    "ddbench.errors": "",
    "ddbench.context": "utils",
    "ddbench.types": "context evaluators.normalisation",
    "ddbench.config": "errors utils",
    "ddbench.registry": "types errors",
    "ddbench.protocols": "config errors utils evaluators",
    "ddbench.testing": "types context config registry errors utils datasets.scenes",
    "ddbench.datasets": "registry types utils errors",
    "ddbench.store": "types utils errors evaluators version",
    "ddbench.leaderboard": "store config utils errors",
    "ddbench.report": "leaderboard store datasets.name errors utils version",
    "ddbench.methods": "types context config utils errors evaluators.students evaluators.augment evaluators.dsa "
                       "evaluators.train evaluators.recipes evaluators.normalisation evaluators.model_checks "
                       "evaluators.seeds evaluators.compilation evaluators.cuda_graph",
    "ddbench.base_model": "methods.latent_diffusion methods.shared datasets types context utils",
    "ddbench.runner": "store datasets config registry protocols types context errors utils evaluators version",
    "ddbench.sweep": "runner store datasets config registry protocols errors utils",
    "ddbench.cli": "sweep report runner leaderboard store datasets testing config registry protocols types "
                   "context errors utils evaluators version",
}  # fmt: skip
# methods share these three, and these three know no method
SHARED = tuple(f"ddbench.methods.{name}" for name in ("shared", "pixels", "latent_diffusion"))


def modules() -> Iterator[tuple[str, Path]]:
    for package, root in ROOTS.items():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


MODULES = dict(modules())


def imported(text: str) -> set[str]:
    """The modules of ddbench and evaluators that a source text imports, in functions too; the innermost only."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide an arrow"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names &= MODULES.keys()
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def may_import(name: str, other: str) -> bool:
    row = max((prefix for prefix in ARROWS if within(name, prefix)), key=len)
    if any(within(name, shared) for shared in SHARED) and within(other, "ddbench.methods"):
        return any(within(other, shared) for shared in SHARED)
    if row != "ddbench" and within(other, row):
        return True
    if other == "ddbench":  # its version and where it is
        return "ddbench" in ARROWS[row].split()
    allowed = (word if word.startswith("evaluators") else f"ddbench.{word}" for word in ARROWS[row].split())
    return any(within(other, prefix) for prefix in allowed)


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_arrows(name):
    others = sorted(imported(MODULES[name].read_text()))
    assert [o for o in others if not may_import(name, o)] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("evaluators.train", "from ddbench.types import ImageSet"),
        ("evaluators.train", "def f():\n    import ddbench.utils.files"),
        ("ddbench.methods.random", "from evaluators import accuracy"),
        ("ddbench.methods.random", "from evaluators.protocols import protocol"),
        ("ddbench.methods.dpd.distiller", "from ddbench.datasets.scenes.source import SCENES"),
        ("ddbench.methods.random", "from ddbench.runner import run"),
        ("ddbench.methods.latent_diffusion.model", "from ddbench.methods.dpd import prototypes"),
        ("ddbench.datasets.rs.ucm", "import ddbench.methods.random"),
        ("ddbench.leaderboard.table", "from ddbench.runner.plan import Plan"),
        ("ddbench.store.records", "from ddbench.runner import run"),
        ("ddbench.registry", "def f():\n    from ddbench.datasets.lookup import find_dataset"),
        ("ddbench.context", "from ddbench.types import ImageSet"),
    ],
)
def test_a_wrong_arrow_would_be_found(name, line):
    assert [other for other in imported(line) if not may_import(name, other)]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in turn, late imports included; empty when there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle():
    graph = {name: imported(path.read_text()) - {name} for name, path in MODULES.items()}
    assert circle(graph) == []


def test_a_circle_would_be_found():
    late = "def f():\n    from ddbench.store import reader"
    texts = {"ddbench.store.records": late, "ddbench.store.reader": "from ddbench.store.records import Result"}
    assert set(circle({name: imported(text) for name, text in texts.items()})) == set(texts)


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
    from test_records import write

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


def test_tests_mirror_the_packages():
    """A test file has the name of a module, or of the package whose folder it is in (tests/methods/test_methods.py)."""
    root = Path(__file__).parents[1]
    # layout, pages, a library, files and addresses of all commands
    without_module = {"test_architecture.py", "test_documents.py", "test_kornia.py", "test_paths.py", "test_network.py"}
    astray = []
    for file in root.glob("tests/**/test_*.py"):
        folder, name = file.relative_to(root / "tests").parent, file.name.removeprefix("test_")
        places = [root / "ddbench" / folder, root / folder]  # root / folder: evaluators, benchmarks, docs
        modules = [place / name for place in places]
        packages = [place for place in places if place.name == name.removesuffix(".py")]
        if file.name not in without_module and not any(path.exists() for path in (*modules, *packages)):
            astray.append(str(file))
    assert not astray
