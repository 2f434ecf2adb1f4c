"""Settings: precedence, types, names."""

import importlib.util
import sys
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from ddbench import config
from ddbench.errors import UserError


@dataclass(frozen=True)
class Toy:
    """A toy."""

    name: ClassVar[str] = "toy"
    steps: int = 10
    lr: float = 1
    decay: float = 0.5
    deep: bool = False
    kind: Literal["plain", "fancy", 3] = "plain"
    limit: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    label: str | None = None
    helped: int = config.param(1, "from metadata", "px")
    plain_metadata: int = field(default=1, metadata={"help": "without the helper"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=3", 3),
        ("lr=1e-3", 0.001),
        ("lr=2", 2.0),
        ("deep=true", True),
        ("deep=False", False),
        ("kind=fancy", "fancy"),
        ("kind=3", 3),
        ("limit=none", None),
        ("limit=2.5", 2.5),
        ("sizes=4,5, 6", (4, 5, 6)),
        ("sizes=", ()),
        ("pair=7,x", (7, "x")),
        ("label=a=b", "a=b"),
        ("label=none", None),
        ("label=3", "3"),
    ],
)
def test_a_word_becomes_its_fields_type(text, expected):
    value = getattr(config.build(Toy, sets=[text]), text.partition("=")[0])
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "text",
    ["steps=1.5", "steps=many", "lr=nan", "lr=inf", "deep=1", "kind=plan", "limit=x", "sizes=1,b", "pair=1", "pair=,a"],
)
def test_a_wrong_value_is_named_with_what_was_expected(text):
    key, _, value = text.partition("=")
    with pytest.raises(UserError, match=rf"--set: {key} = {value} is invalid; expected "):
        config.build(Toy, sets=[text])


@pytest.mark.parametrize("text", ["steps = true", 'steps = "3"', "deep = 1", "sizes = 3", "pair = ['a', 1]"])
def test_toml_values_are_not_guessed(tmp_path, text):
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(UserError, match="is invalid; expected"):
        config.build(Toy, config_file=tmp_path / "f.toml")


def test_an_unknown_key_names_the_nearest_and_all():
    with pytest.raises(UserError, match=r"unknown key of toy \(--set\) 'stps'; did you mean steps\?.* Known: .*decay"):
        config.build(Toy, sets=["stps=3"])


@pytest.mark.parametrize("text", ["steps", "=3"])
def test_a_set_without_key_or_value_says_the_form(text):
    with pytest.raises(UserError, match="is not key=value"):
        config.build(Toy, sets=[text])


def test_broken_and_missing_files_are_named(tmp_path):
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        config.build(Toy, config_file=tmp_path / "bad.toml")
    with pytest.raises(UserError, match=r"cannot read .*none\.toml"):
        config.build(Toy, config_file=tmp_path / "none.toml")


def test_files_of_other_editors_are_read_or_named(tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\n")  # as Windows' Notepad begins a file
    assert config.build(Toy, config_file=path) == config.build(Toy, sets=["steps=3"])
    path.write_bytes("steps = 3\n".encode("utf-16"))
    with pytest.raises(UserError, match=r"own\.toml is not UTF-8: save it in UTF-8"):
        config.build(Toy, config_file=path)
    path.write_text(f"steps = {'9' * 5000}")
    with pytest.raises(UserError, match=r"Exceeds the limit \(4300 digits\)$"):
        config.build(Toy, config_file=path)


def test_the_later_source_wins(toy_with_presets, tmp_path):
    (tmp_path / "f.toml").write_text("b = 20\nc = 30\n")
    made = config.build(toy_with_presets, "small", tmp_path / "f.toml", ["c=300"])
    assert config.params(made) == {"a": 2, "b": 20, "c": 300, "d": 0}


def test_a_preset_may_be_like_another(toy_with_presets):
    assert config.params(config.build(toy_with_presets, "large")) == {"a": 2, "b": 2, "c": 5, "d": 0}


def test_a_preset_may_be_like_one_of_another_method(toy_with_presets):
    small = config.presets(toy_with_presets)["small"]
    other = small.parent / "other"
    other.mkdir()
    (other / "base.toml").write_text("a = 7\nb = 7\n")
    (other / "tiny.toml").write_text('like = "base"\nb = 8\n')
    small.write_text('like = "other/tiny"\nc = 9\n')
    assert config.params(config.build(toy_with_presets, "small")) == {"a": 7, "b": 8, "c": 9, "d": 0}
    (other / "base.toml").write_text("e = 7\n")
    with pytest.raises(UserError, match=r"unknown key of mine \(preset other/base\) 'e'"):
        config.build(toy_with_presets, "small")
    small.write_text('like = "another/small"\n')
    with pytest.raises(UserError, match=r"unknown preset of another \(`like` of preset small\) 'small'"):
        config.build(toy_with_presets, "small")
    (other / "base.toml").write_text('like = "mine/small"')
    small.write_text('like = "other/base"\n')
    with pytest.raises(UserError, match="circle: small -> other/base -> small"):
        config.build(toy_with_presets, "small")


def test_presets_like_each_other_are_named(toy_with_presets):
    next(iter(config.presets(toy_with_presets).values())).with_name("small.toml").write_text('like = "large"')
    with pytest.raises(UserError, match="circle: small -> large -> small"):
        config.build(toy_with_presets, "small")


@pytest.mark.parametrize("value", ['"lrge"', "3"])
def test_a_preset_like_an_unknown_one_is_named(toy_with_presets, value):
    config.presets(toy_with_presets)["small"].write_text(f"like = {value}")
    with pytest.raises(UserError, match=r"unknown preset of mine \(`like` of preset small\) '.*large"):
        config.build(toy_with_presets, "small")


def test_presets_are_the_toml_files_beside_the_module(toy_with_presets):
    assert list(config.presets(toy_with_presets)) == ["large", "small"]
    with pytest.raises(UserError, match=r"unknown preset of mine 'smal'; did you mean small\?"):
        config.build(toy_with_presets, "smal")


def test_methods_in_one_folder_keep_their_presets_apart(toy_with_presets):
    folder = config.presets(toy_with_presets)["small"].parent
    (folder / "mine").mkdir()
    (folder / "mine" / "own.toml").write_text("a = 7")
    assert list(config.presets(toy_with_presets)) == ["own"]
    assert config.build(toy_with_presets, "own").a == 7


def test_params_are_complete_json_and_do_not_depend_on_how_a_number_was_written():
    written = [config.params(config.build(Toy, sets=[f"lr={text}"])) for text in ("1", "1.0", "1e0")]
    assert written[0] == written[1] == written[2] == config.params(Toy())
    assert repr(config.params(Toy())["lr"]) == "1.0"
    assert config.params(Toy())["sizes"] == [1, 2]
    assert list(config.params(Toy())) == [f.name for f in config.describe_fields(Toy)]


def test_a_constructor_that_refuses_is_a_user_error():
    @dataclass(frozen=True)
    class Picky:
        steps: int = 1

        def __post_init__(self):
            if self.steps < 1:
                raise ValueError("steps must be positive")

    with pytest.raises(UserError, match="Picky does not accept these settings: steps must be positive"):
        config.build(Picky, sets=["steps=0"])


def test_meanings_and_units_stand_at_the_fields():
    infos = {info.name: info for info in config.describe_fields(Toy)}
    assert (infos["helped"].meaning, infos["helped"].unit, infos["helped"].default) == ("from metadata", "px", "1")
    assert (infos["plain_metadata"].meaning, infos["plain_metadata"].unit) == ("without the helper", "")
    assert infos["limit"].default == "none"
    assert infos["kind"].type == "one of plain, fancy, 3"
    assert infos["deep"].meaning == ""


def test_a_subclass_that_changes_a_default_keeps_the_meaning_and_the_unit():
    @dataclass(frozen=True)
    class Below(Toy):
        helped: int = 7

    field = next(info for info in config.describe_fields(Below) if info.name == "helped")
    assert (field.default, field.meaning, field.unit) == ("7", "from metadata", "px")


def test_a_class_without_a_docstring_has_no_description_and_no_invented_meanings():
    @dataclass(frozen=True)
    class Bare:
        k: int = 1

    assert config.description(Toy) == "A toy."
    assert (config.description(Bare), config.describe_fields(Bare)[0].meaning) == ("", "")


@pytest.fixture
def toy_with_presets(tmp_path):
    """A method's class in a module of its own, with two presets beside it."""
    folder = tmp_path / "package"
    (folder / "presets").mkdir(parents=True)
    (folder / "presets" / "small.toml").write_text("a = 2\nb = 2\nc = 2\n")
    (folder / "presets" / "large.toml").write_text('like = "small"\nc = 5\n')
    body = "".join(f"    {name}: int = 0\n" for name in "abcd")
    text = f"from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Mine:\n    name = 'mine'\n{body}"
    (folder / "toy_presets_module.py").write_text(text)
    spec = importlib.util.spec_from_file_location("toy_presets_module", folder / "toy_presets_module.py")
    module = sys.modules["toy_presets_module"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.Mine
    del sys.modules["toy_presets_module"]
