"""Plugins: by entry point, by path; unknown, claimed twice, broken."""

import sys

import pytest
from third_party import write_method

from ddbench import config, registry
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.name import display_name
from ddbench.errors import UserError
from ddbench.protocols import check_student, load_protocol, protocol_names, student_names
from ddbench.registry import load_method

METHOD = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1
    steps: int = 3

    def distill(self, train, ipc, ctx):
        raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(package, module text, entry points) puts a package where pip would put it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(package, text, **points):
        (site / f"{package}.py").write_text(text)
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {package}:{target}" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[ddbench.methods]\n{lines}\n")

    yield put
    for module in [name for name in sys.modules if name.startswith("core_plugin")]:
        del sys.modules[module]


def test_our_own_are_there():
    assert {"random", "herding", "dpd"} <= set(registry.names("methods"))
    assert {"scenes", "ucm", "eurosat"} <= set(registry.names("datasets"))
    assert {"convnet", "resnet18", "vit_tiny", "swin_t"} <= set(student_names())
    assert {"quick@1", "dpd@1", "dc@1"} <= set(protocol_names())


def test_a_third_partys_entry_point_is_listed_without_and_loaded_with_its_module(install):
    install("core_plugin_a", METHOD, mine="Mine")
    assert "mine" in registry.names("methods")
    assert "core_plugin_a" not in sys.modules
    assert load_method("mine").__module__ == "core_plugin_a"
    assert registry.source_of("mine") == ""


def test_a_broken_plugin_stops_only_itself(install):
    install("core_plugin_b", "import no_such_module_at_all", broken="Mine")
    install("core_plugin_c", METHOD, mine="Mine", gone="NoSuchClass")
    assert {"broken", "gone", "mine"} <= set(registry.names("methods"))
    assert load_method("mine").name == "mine"
    with pytest.raises(UserError, match=r"'broken' .*core_plugin_b.* cannot be loaded: ModuleNotFound"):
        load_method("broken")
    with pytest.raises(UserError, match=r"'gone' .*NoSuchClass"):
        load_method("gone")


def test_a_name_that_two_packages_claim_is_an_error_naming_both(install):
    install("core_plugin_d", METHOD, mine="Mine")
    install("core_plugin_e", METHOD, mine="Mine", other="Mine")
    assert registry.names("methods").count("mine") == 1
    assert load_method("other").name == "mine"
    with pytest.raises(UserError, match=r"core_plugin_d .* and core_plugin_e"):
        load_method("mine")


@pytest.mark.parametrize(
    ("load", "name", "nearest"),
    [
        (load_method, "herdin", "herding"),
        (find_dataset, "Eurosat", "eurosat"),
        (check_student, "resnet", "resnet18"),
        (load_protocol, "quik@1", "quick@1"),
    ],
)
def test_an_unknown_name_gives_the_nearest(load, name, nearest):
    with pytest.raises(UserError, match=rf"did you mean .*{nearest}.*(?i:known)"):
        load(name)


def test_a_name_like_no_other_gives_all():
    with pytest.raises(UserError, match=r"unknown dataset 'zzzz'\. Known: .*eurosat, .*scenes"):
        find_dataset("zzzz")


def test_a_class_in_a_file(tmp_path):
    (tmp_path / "my.py").write_text(METHOD)
    name = f"{tmp_path}/my.py:Mine"
    cls = load_method(name)
    assert cls(steps=4).steps == 4
    assert load_method(name) is cls
    assert (cls.whole, cls.needs_ipc_images, cls.parallel) == (False, False, False)  # left out there
    assert (cls.citation, cls(steps=4).identity()) == ("", "")
    before = registry.source_of(name)
    (tmp_path / "my.py").write_text(METHOD + "\n# edited\n")
    assert len(before) == 64
    assert registry.source_of(name) != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{}/none.py:Mine", "there is no file .*none.py"),
        ("{}/my.py:Mime", "unknown class in .*my.py 'Mime'; did you mean Mine"),
        ("{}/bad.py:Mine", r"bad\.py cannot be loaded: SyntaxError"),
        ("{}/clash.py:Mine", "has the name 'random' of an installed method"),
        ("{}/my.py", r"my\.py names no class: write .*my\.py:CLASS"),
        ("some:thing", "neither a method's name nor path/to/file.py:Class"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, said):
    (tmp_path / "my.py").write_text(METHOD)
    (tmp_path / "clash.py").write_text("class Mine:\n    name = 'random'\n    def distill(self): ...\n")
    (tmp_path / "bad.py").write_text("def (")
    with pytest.raises(UserError, match=said):
        load_method(name.format(tmp_path))


def test_a_folder_is_known_by_its_last_part(tmp_path):
    assert display_name(f"folder:{tmp_path}/a/../images/") == "folder:images"
    assert display_name("scenes") == "scenes"
    with pytest.raises(UserError, match="needs a path"):
        find_dataset("folder:")


def test_the_file_of_a_method_is_found_without_importing_it(install, tmp_path):
    install("core_plugin_f", "raise RuntimeError('imported')", mine="Mine")
    assert registry.module_file("mine") == tmp_path / "site" / "core_plugin_f.py"
    assert registry.module_file("no such method") is None


def test_every_preset_of_ours_fits_its_method():
    for method in registry.names("methods"):
        cls = load_method(method)
        for preset in config.presets(cls):
            assert isinstance(config.build(cls, preset), cls)


def test_a_file_that_was_edited_is_loaded_anew(tmp_path):
    words = write_method(tmp_path)
    before, source = load_method(words), registry.source_of(words)
    file = tmp_path / "pick.py"
    file.write_text(file.read_text().replace("shift: int = param(0", "shift: int = param(7"))
    assert (before().shift, load_method(words)().shift) == (0, 7)
    assert registry.source_of(words) != source
