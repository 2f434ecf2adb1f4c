"""A plan's words, its jobs and their order, what is missing of them, how long they may take. Nothing is run."""

import dataclasses

import pytest
from third_party import write_images, write_method

from ddbench.datasets.info import DataPaths
from ddbench.datasets.name import display_name
from ddbench.errors import UserError
from ddbench.runner import plan
from ddbench.store import failures, paths, records
from ddbench.sweep import grid as sweeps
from evaluators import VERSION

PLAN = """
datasets = ["folder:{home}/images", "folder:{home}/others"]
ipcs = [1, 2]
seeds = 2
students = ["convnet", "resnet18"]
protocols = ["quick", "dc@1"]
methods = [
    "random",
    {{ method = "{home}/pick.py:Pick", set = ["shift=3"], ipcs = [2], seeds = [5] }},
    "full",
]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for seed, name in enumerate(("images", "others")):
        write_images(home / name, {"barn": 10, "pond": 12}, size=32, seed=seed)
    write_method(home)
    (home / "plan.toml").write_text(PLAN.format(home=home).replace(', "resnet18"', "").replace(', "dc@1"', ""))
    return home


def grid(home, tmp_path, text=None):
    path = tmp_path / "plan.toml"
    path.write_text(text or (home / "plan.toml").read_text())
    return sweeps.sweep_jobs(*sweeps.read_plan(path), DataPaths(None, home / "shared", True), tmp_path / "runs")


def facts(jobs):
    return [(c.tasks[0].spec.dataset, c.tasks[0].spec.method, c.tasks[0].spec.ipc, c.tasks[0].spec.seed) for c in jobs]


def test_the_grid_in_order(home, tmp_path):
    images, others = "folder:images", "folder:others"
    assert facts(grid(home, tmp_path)) == [
        (images, "random", 1, 0), (others, "random", 1, 0),
        (images, "pick", 2, 5), (others, "pick", 2, 5),
        (images, "full", 0, 0), (others, "full", 0, 0),
        (images, "random", 1, 1), (images, "random", 2, 0), (images, "random", 2, 1), (images, "full", 0, 1),
        (others, "random", 1, 1), (others, "random", 2, 0), (others, "random", 2, 1), (others, "full", 0, 1),
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_every_student_of_every_protocol(home, tmp_path):
    text = PLAN.format(home=home).replace("dc@1", "quick@1")
    job = grid(home, tmp_path, text)[0]
    assert [(task.student, task.path.parent.name) for task in job.tasks] == [
        (None, "ipc1"), ("convnet", f"quick-v1-judge{VERSION}"), ("resnet18", f"quick-v1-judge{VERSION}"),
    ]  # fmt: skip
    assert job.missing == list(job.tasks)


def test_a_method_without_seeds_gets_as_many_students(home, tmp_path):
    own = '"random", { method = "herding", seeds = 1, student_seeds = 2 },'
    jobs = grid(home, tmp_path, (home / "plan.toml").read_text().replace('"random",', own))
    students = {(job.request.method, *job.request.seeds): len(job.tasks) - 1 for job in jobs}
    assert {each: n for each, n in students.items() if each[0] == "herding"} == {("herding", 0): 2}
    assert {each: n for each, n in students.items() if each[0] == "random"} == {("random", 0): 1, ("random", 1): 1}


def test_what_is_asked_twice_gets_the_larger_number_of_students(home, tmp_path):
    twice = '{ method = "random", seeds = 1, student_seeds = 2 }, "random",'
    jobs = grid(home, tmp_path, (home / "plan.toml").read_text().replace('"random",', twice))
    students = {(*r.ipcs, *r.seeds): len(job.tasks) - 1 for job in jobs if (r := job.request).method == "random"}
    assert students == {(1, 0): 2, (2, 0): 2, (1, 1): 1, (2, 1): 1}


def test_what_is_asked_twice_is_one_job(home, tmp_path):
    text = (home / "plan.toml").read_text().replace('"random",', '"random", { method = "random", preset = "tiny" },')
    assert facts(grid(home, tmp_path, text)) == facts(grid(home, tmp_path))


def test_paths_are_found_from_anywhere(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    text = (home / "plan.toml").read_text().replace(f"{home}/", "")
    requests = [job.request for job in grid(home, tmp_path, text)]
    assert {request.dataset for request in requests} == {f"folder:{home}/images", f"folder:{home}/others"}
    assert {request.method for request in requests} == {"random", "full", f"{home}/pick.py:Pick"}


def test_a_file_of_sides_is_found_from_anywhere(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    (home / "lists").mkdir()
    files = [path.relative_to(home / "images") for path in sorted((home / "images").glob("*/*"))]
    lines = [f"{path},{'train' if i % 2 else 'test'}" for i, path in enumerate(files)]
    (home / "lists/odd.csv").write_text("\n".join(["file,split", *lines]))
    text = (home / "plan.toml").read_text().replace(f"{home}/others", f"{home}/images@lists/odd.csv")
    made = grid(home, tmp_path, text)
    sided = {job.request.dataset for job in made} - {f"folder:{home}/images"}
    assert sided == {f"folder:{home}/images@{home}/lists/odd.csv"}
    named = {job.tasks[0].spec.dataset for job in made}
    assert named == {"folder:images", "folder:images@odd.csv"}
    assert {display_name(dataset) for dataset in sided} == {"folder:images@odd.csv"}
    assert display_name("ucm@lists/odd.csv") == "ucm@odd.csv"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ipcs = [1, 2]", "ipc = [1]", r"unknown key of a plan .*'ipc'; did you mean ipcs\? Known: .*methods"),
        ("seeds = 2", "sizes = [0, 64]", r"sizes = \[0, 64\] is invalid; .* an integer from 8"),
        ("seeds = 2", "student_seeds = 0", "student_seeds = 0 is invalid; expected an integer from 1"),
        ('"full"', '{ method = "full", ipcs = [1] }', r"full takes every training image: leave out its ipcs = \[1\]"),
        ("seeds = 2", 'seeds = "two"', r"seeds = 'two' is invalid; expected an integer to 10000 or a list"),
        ("seeds = 2", "seeds = 0", r"random: seeds = \[\] must name at least one seed"),
        ("ipcs = [1, 2]", "ipcs = [0]", r"ipcs = \[0\]"),
        ("ipcs = [1, 2]", "ipcs = [1, 99]", "random needs 99 training images of every class, and .* ask for"),
        ("ipcs = [1, 2]", "", r"random needs numbers of images per class: add ipcs = \[1, 10\]"),
        ('students = ["convnet"]', "students = []", "students is empty"),
        ('"random"', '"randm"', "unknown method 'randm'; did you mean random"),
        ('"random"', '{ name = "random" }', "neither a name nor a table with a key `method`"),
        ('"random"', '{ method = "random", sets = [] }', r"unknown key of MethodEntry .*'sets'; did you mean set"),
        ("methods =", "method =", "unknown key of a plan .*'method'; did you mean methods"),
        ("shift=3", "shft=3", "unknown .*'shft'; did you mean shift"),
    ],
)
def test_words_that_are_off(home, tmp_path, old, new, said):
    text = (home / "plan.toml").read_text()
    assert old in text
    with pytest.raises(UserError, match=said):
        grid(home, tmp_path, text.replace(old, new, 1))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('methods = ["random"]', r"datasets must be a list, such as datasets = \[\"ucm\""),
        ('datasets = ["ucm"]', r"methods must be a list: methods = \[\"random\", \{method = \"dm\""),
        ('datasets = ["ucm"]\nmethods = "random"', "methods must be a list"),
    ],
)
def test_a_plan_needs_methods_and_datasets(tmp_path, text, said):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(UserError, match=said):
        sweeps.read_plan(tmp_path / "plan.toml")


def test_a_file_that_is_no_toml(tmp_path):
    (tmp_path / "plan.toml").write_text("methods = [")
    with pytest.raises(UserError, match=r"plan\.toml"):
        sweeps.read_plan(tmp_path / "plan.toml")


def result(task, seconds):
    """What a student's task would write."""
    made = records.Result(task.spec.digest, "c", task.student, "scratch", task.seed, "quick", 1, "h", 0.5, 0.5, {}, [],
                          8, seconds, 1, "cpu", {}, None, None)  # fmt: skip
    records.write_result(task.path, made)


def test_what_is_missing_and_what_was_given_up(home, tmp_path):
    first, second = grid(home, tmp_path)[:2]
    distil, train = first.tasks
    assert not first.earlier_failure
    failures.write_failure(distil.path, failures.Failure("oom", "too large", ""))
    assert first.earlier_failure
    paths.failure_path(distil.path).unlink()
    (distil.folder / "distilled").mkdir(parents=True)
    assert first.missing == [train]
    failures.write_failure(train.path, failures.Failure("failed", "no", ""))
    assert first.earlier_failure
    assert not second.earlier_failure


def test_results_that_were_merged_need_no_distilled_set(home, tmp_path):
    job = grid(home, tmp_path)[0]
    distil, train = job.tasks
    assert job.missing == [distil, train]
    result(train, 60.0)
    assert not distil.done
    assert job.done
    assert dataclasses.replace(job, students=(), tasks=(distil,)).missing == [distil]


def test_a_failure_that_was_made_good_gives_nothing_up(home, tmp_path):
    job = grid(home, tmp_path)[0]
    failures.write_failure(job.folder, failures.Failure("oom", "too large", ""))
    (job.folder / "distilled").mkdir()
    assert not job.earlier_failure
    paths.failure_path(job.folder).write_text("{")
    assert failures.read_failure(job.folder).status == "failed"


def test_how_long_it_may_take(home, tmp_path):
    jobs = grid(home, tmp_path)
    missing = [task for job in jobs for task in job.missing]
    assert sweeps.estimate(missing, tmp_path / "runs").describe(1) == "time unknown: no finished run is similar"
    for job, seconds in ((jobs[0], 60.0), (jobs[6], 120.0)):  # random at IPC 1 on the first folder, seeds 0 and 1
        records.write_spec(job.folder, job.tasks[0].spec)
        result(job.tasks[1], seconds)
        records.write_json(job.folder / "distill.json", {"seconds": 2 * seconds})
    left = [task for job in jobs for task in job.tasks]
    found = sweeps.estimate(left, tmp_path / "runs")
    # by hand: students at IPC 1 take 90 s: two on the first folder, two on the other, of which none was done; the
    # same four distillations 180 s; of 28 tasks these are 8
    assert found == sweeps.Estimate(4 * 90.0 + 4 * 180.0, 8, 28)
    assert found.describe(2) == "about 9 min with 2 at a time; unknown for 20 of 28 tasks"
    assert dataclasses.replace(found, seconds=7500.0, known=28).describe(1) == "about 2 h 5 min with 1 at a time"


def test_nothing_to_do_takes_no_time(tmp_path):
    assert sweeps.estimate([], tmp_path).describe(1) == "nothing to do"


def test_a_job_says_where_it_lies(home, tmp_path):
    job = grid(home, tmp_path)[0]
    assert job.title == f"folder-images32/random/ipc1/seed0-{job.tasks[0].spec.digest[:8]}"
    assert isinstance(job.request, plan.Request)
