"""The notebook runs, and the plugin installs into an environment of its own and keeps the contract."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
EXECUTE = """
import nbclient, nbformat
notebook = nbformat.read("quickstart.ipynb", 4)
nbformat.validate(notebook)
nbclient.execute(notebook)
nbformat.write(notebook, "out.ipynb")
"""


def run(*words, cwd, **environment):
    """Run a command and return its output. Fails with it where the exit status is not 0."""
    command = [str(word) for word in words]
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("DDBENCH_", "PYTEST_"))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=settings | environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert sum(cell["cell_type"] == "code" for cell in cells) > 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """As Jupyter does, by a kernel of this interpreter."""
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    run(sys.executable, "-m", "ipykernel", "install", "--prefix", tmp_path, "--name", "python3", cwd=tmp_path)
    shutil.copy(NOTEBOOK, tmp_path)
    path = {"JUPYTER_PATH": str(tmp_path / "share" / "jupyter"), "IPYTHONDIR": str(tmp_path / "ipython")}
    run(sys.executable, "-c", EXECUTE, cwd=tmp_path, **path)
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    shown = {cell["id"]: json.dumps(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"}
    assert "image/png" in shown["picture"]
    assert "kcenter" in shown["frame"]
    assert "toprule" in shown["latex"]
    assert "memory:class means" in shown["loop"]
    assert "error" not in "".join(shown.values()).lower()


@pytest.mark.slow
def test_the_plugin_installs_keeps_the_contract_and_runs(tmp_path):
    """Into an empty environment that sees this one's packages; nothing is downloaded."""
    home = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python = home / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(site, "tested.pth").write_text(
        "".join(f"import site; site.addsitedir({path!r})\n" for path in dict.fromkeys(site_folders()))
    )
    shutil.copytree(EXAMPLES / "plugin", tmp_path / "plugin")  # building writes beside the sources
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, tmp_path / "plugin", cwd=tmp_path)
    assert "ddbench_medoid" in run(python, "-c", "import ddbench_medoid as m; print(m.__file__)", cwd=tmp_path)

    ddbench = (python, "-m", "ddbench", "--device", "cpu")
    assert "medoid" in run(*ddbench, "list", "methods", cwd=tmp_path).split()
    assert "medoid thumbnail" in run(*ddbench, "list", "presets", cwd=tmp_path)
    assert "FAILED" not in run(*ddbench, "check", "medoid", cwd=tmp_path)
    words = ("run", "--method", "medoid", "--preset", "thumbnail", "--dataset", "scenes", "--ipc", "1", "--size", "8")
    assert re.search(r"^medoid \(thumbnail\) +\d", run(*ddbench, *words, cwd=tmp_path), re.MULTILINE)
    passed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "plugin/tests", cwd=tmp_path)
    assert re.search(r"\b12 passed", passed)


def site_folders():
    """Folders of this environment's packages, those of `.pth` files too."""
    return [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
