"""A protocol of one's own: what the file may say, what it may not, and that it is nobody else's."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ddbench import protocols
from ddbench.cli.main import cli
from ddbench.errors import UserError
from ddbench.protocols import load_protocol
from evaluators.protocols import PROTOCOLS, protocol
from evaluators.recipes import OPERATIONS

WHOLE = """
[recipes.convnet]
optimizer = "sgd"
lr = 1
weight_decay = 0.0
batch = 4
epochs = 2
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="mine.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_what_is_not_said_is_what_it_is_like(file):
    made = protocols.read_protocol(
        file('like = "quick@1"\n[recipes.convnet]\nepochs = 3\n[recipes.convnet.augment]\ncutmix = 0.5\n')
    )
    quick = protocol("quick@1")
    old = quick.recipe("convnet")
    assert made.recipe("convnet") == replace(old, epochs=3, augment=replace(old.augment, cutmix=0.5))
    assert made.recipe("resnet18") == quick.recipe("resnet18")
    assert made.source == "mine.toml, like quick@1"


def test_the_operations_of_the_page_are_a_protocols(file):
    """The example of docs/protocols.md; the list below it names all that there are."""
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"    # strong\.toml\n((?:    .*\n)+)", page)
    augment = load_protocol(str(file(example, "strong.toml"))).recipe("convnet").augment
    pool = ("rotate", "posterize", "solarize", "equalize", "sharpness", "elastic")
    assert augment == replace(
        protocol("quick@1").recipe("convnet").augment, operations=pool, operations_per_image=2, operation_chance=0.5,
        magnitude=0.9, magnitude_deviation=0.05, erasing=0.25, mixup=0.2,
    )  # fmt: skip
    (names,) = re.findall(r"The operations are (.*?)\. `help", page, re.DOTALL)
    assert re.findall(r"`(\w+)`", names) == list(OPERATIONS)


def test_a_whole_row_needs_nothing_below(file):
    made = protocols.read_protocol(
        file('init = "imagenet"\nteacher = ["resnet18", "quick"]\nsource = "a trial"\n' + WHOLE)
    )
    assert (made.init, made.teacher, made.source) == ("imagenet", ("resnet18", "quick@1"), "a trial")
    assert list(made.recipes) == ["convnet"]
    assert made.recipe("convnet").lr == 1.0


def test_a_teacher_of_views_may_take_the_statistics_of_batches(file):
    like = protocols.read_protocol(file('like = "sre2l-cifar@1"'))
    other = protocols.read_protocol(file('like = "sre2l-cifar@1"\nteacher_statistics = "running"'))
    assert (like.teacher_statistics, other.teacher_statistics) == ("batch", "running")
    assert like.name != other.name
    page = CliRunner().invoke(cli, ["show", "sre2l-cifar@1"]).output
    assert "labels: of every view, resnet18 by squeeze@1, by each batch's statistics\n" in page


def test_no_teacher_is_an_empty_list(file):
    assert protocols.read_protocol(file("teacher = []\n" + WHOLE)).teacher is None


def test_its_name_is_its_content_and_never_a_published_one(file):
    plain, again = protocols.read_protocol(file(WHOLE)), protocols.read_protocol(file(f"# a remark\n{WHOLE}"))
    other = protocols.read_protocol(file(WHOLE.replace("epochs = 2", "epochs = 3")))
    assert re.fullmatch(r"custom:mine-[0-9a-f]{8}@1", plain.title)
    assert plain == again
    assert plain.name != other.name
    assert plain.title not in PROTOCOLS
    copied = protocols.read_protocol(file('like = "quick@1"'))
    assert copied.recipes == protocol("quick@1").recipes
    assert copied.identity("convnet") != protocol("quick@1").identity("convnet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a table"),
        ("lik = 1", "'lik'; did you mean like"),
        ("recipes = 3", r"recipes = 3 is not a table for each student: \[recipes.convnet\]"),
        ("[recipes]\nconvnet = 3", "is not a table for each student"),
        ('like = "quikc"', "'quikc'.*did you mean 'quick@1'"),
        ('like = "quick"\n[recipes.convnext]', "'convnext'; did you mean convnet"),
        ('like = "quick"\n[recipes.convnet]\nepoch = 3', r"recipes\.convnet\) 'epoch'; did you mean epochs"),
        ('like = "quick"\n[recipes.convnet]\nepochs = 0.5', "epochs = 0.5 is invalid; expected an integer"),
        ('like = "quick"\n[recipes.convnet.augment]\nflip = 1', r"augment\) 'flip'; did you mean flip_y or flip_x"),
        ('like = "quick"\ninit = "imagnet"', "did you mean 'imagenet'"),
        ('like = "sre2l-cifar"\nlabels = "own"', 'needs labels = "views"; for other labels set "running"'),
        ("teacher_statistics = 1", "teacher_statistics = 1 is invalid; expected text"),
        ('like = "quick"\n[recipes.convnet]\nlr = -1', "lr must be above 0"),
        ('like = "quick"\n[recipes.convnet]\nwarmup = 1.5', "warmup a share below 1"),
        ('like = "quick"\n[recipes.convnet.augment]\ncutmix = 3', r"cutmix 3\.0 is not in 0\.\.1: a probability"),
        ('like = "quick"\n[recipes.convnet.augment]\nmixup = 0.6\ncutmix = 0.6', "add up to more than 1"),
        ('like = "quick"\n[recipes.convnet.augment]\nerasing = -1', r"erasing -1\.0 is not in 0\.\.1: a probability"),
        ('like = "quick"\n[recipes.convnet.augment]\nmagnitude = 9', r"magnitude 9\.0 is not in 0\.\.1: a strength"),
        ('like = "quick"\n[recipes.convnet.augment]\nmagnitude_deviation = -1', r"finite, not -1\.0"),
        ('like = "quick"\n[recipes.convnet.augment]\noperations_per_image = 0', "from 1 to 100, not 0"),
        ('like = "quick"\n[recipes.convnet.augment]\noperations_per_image = 101', "from 1 to 100, not 101"),
        ('like = "quick"\n[recipes.convnet.augment]\ncrop_tries = 1000000000', "from 0 to 100, not 1000000000"),
        ('like = "quick"\n[recipes.convnet]\naugment = 3', r"augment = 3 is not a table: \[recipes.convnet"),
        ('like = ["quick"]', r"like = \['quick'\] is invalid; expected text"),
        ('like = "quick"\nsource = 3', "source = 3 is invalid; expected text"),
        ('like = "quick"\n[recipes.convnet.augment]\noperations = ["posterise"]', "did you mean 'posterize'"),
        ('like = "quick"\n[recipes.convnet.augment]\noperations = "equalize"', r"augment: operations = .*equalize"),
        ('like = "quick"\n[recipes.convnet.augment]\ncrop_area = [0, 0]', "crop_area must be a range"),
        ('like = "quick"\nteacher = "resnet18"', r"'resnet18' is not \[\"STUDENT\", \"PROTOCOL\"\]"),
        ('like = "quick"\nteacher = ["resnet81", "quick"]', "did you mean 'resnet18'"),
        (WHOLE.replace("lr = 1", ""), "recipes.convnet needs lr, or a protocol to start from: `like`"),
        (WHOLE.replace('"sgd"', '"lion"'), "sgd or adamw or adam"),
        ("lr", "not valid TOML"),
        ("lr = " + 5000 * "[" + 5000 * "]", "not valid TOML: its values are nested too deep"),
    ],
)
def test_what_is_off_is_named(file, text, said):
    with pytest.raises(UserError, match=said) as caught:
        load_protocol(str(file(text)))
    assert "mine.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.toml"):
        load_protocol(str(tmp_path / "none.toml"))


def test_show_explains_it(file):
    shown = CliRunner().invoke(cli, ["show", str(file(WHOLE + "temperature = 4\n"))])
    assert shown.exit_code == 0
    assert shown.output.startswith("custom:mine-")
    assert re.search(r"temperature +4\.0 ", shown.output)
