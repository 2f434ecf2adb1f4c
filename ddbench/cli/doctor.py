"""`ddbench doctor`."""

from __future__ import annotations

import json
from typing import Any

import click

from ddbench.cli.common import (
    DATASET,
    METHOD,
    PRESET,
    PROTOCOL,
    SIZE,
    SIZE_HELP,
    STUDENT,
    format_option,
    text_table,
)
from ddbench.runner.options import GlobalOptions
from ddbench.utils.limits import MOST_IMAGES
from ddbench.utils.units import format_bytes, format_seconds


@click.command()
@click.option("--method", type=METHOD, metavar="NAME|FILE.py:CLASS", help="Check a run of this method, too.")
@click.option("--dataset", type=DATASET, metavar="NAME|folder:PATH", help="Dataset of that run.")
@click.option("--ipc", type=click.IntRange(1, MOST_IMAGES), help="Images per class of that run.")
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.option("--preset", type=PRESET, metavar="NAME", help="Named settings of the method.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="One setting; repeatable.")
@click.option(
    "--student",
    "students",
    type=STUDENT,
    metavar="NAME",
    multiple=True,
    default=["convnet"],
    show_default=True,
    help="Network to train on the distilled set; repeatable.",
)
@click.option(
    "--protocol",
    type=PROTOCOL,
    default="quick",
    show_default=True,
    metavar="NAME",
    help="Training settings of the students.",
)
@format_option("text", ("text", "json"))
@click.pass_obj
def doctor(  # noqa: PLR0913
    options: GlobalOptions,
    method: str | None,
    dataset: str | None,
    ipc: int | None,
    size: int | None,
    preset: str | None,
    sets: tuple[str, ...],
    students: tuple[str, ...],
    protocol: str,
    form: str,
) -> None:
    """Say what this machine has, what methods need, and what a run would cost.

    Prints versions, device, memory, free disk, datasets, base models, and the models that each method loads. With
    --method it checks a run: what is missing, what it downloads by itself, and an estimate of the time and memory of
    the distillation and of each student, from the most similar runs below --runs. Without --dataset, no images are
    looked for. Nothing is downloaded or written. The exit status is 1 if that run would fail.

    \b
    Examples:
      ddbench doctor
      ddbench doctor --method dpd --size 256 --ipc 10
      ddbench doctor --method dpd --dataset aid --size 256 --ipc 10 --student resnet18
      ddbench doctor --format json
    """  # fmt: skip
    if method is None and (dataset or ipc or size or preset or sets):
        raise click.UsageError("--dataset, --ipc, --size, --preset and --set belong to a run: add --method")
    from ddbench.runner.doctor import check_request, describe_machine, list_bases, list_data, list_methods

    report: dict[str, Any] = {"machine": describe_machine(options)}
    if method:
        from ddbench.runner.plan import Request, evaluation_setup

        request = Request(method, dataset or "", (ipc,) if ipc else (), size, preset, None, sets)
        report["run"] = check_request(request, evaluation_setup(students, protocol, 1), options)
    else:
        report |= {"datasets": list_data(options), "bases": list_bases(), "methods": list_methods()}
    click.echo(json.dumps(report, indent=2) if form == "json" else "\n\n".join(_sections(report)))
    if report.get("run", {}).get("problems"):
        raise SystemExit(1)


def _sections(report: dict[str, Any]) -> list[str]:
    """Return the report as paragraphs of text."""
    machine, device = report["machine"], report["machine"]["device"]
    memory = f"{format_bytes(device['memory'])}, {format_bytes(device['free_memory'])} free" if device["memory"] else ""
    gpu = (
        f"{format_bytes(device['gpu_memory'])}, {format_bytes(device['free_gpu_memory'])} free"
        if "gpu_memory" in device
        else ""
    )
    rows = [
        ("versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())),
        ("commit", f"{machine['commit']}{' with changes' if machine['dirty'] else ''}" if machine["commit"] else ""),
        ("device", device.get("name") or device["error"]),
        ("GPU memory", gpu),
        ("memory", f"{memory}; {device['cores']} cores"),
        *((f"disk: {name}", f"{_size(disk['free'])} free ({disk['path']})") for name, disk in machine["disk"].items()),
    ]
    sections = [text_table([row for row in rows if row[1]], ("this machine", ""))]
    if "run" in report:
        return [*sections, *_run_sections(report["run"])]
    data = [
        (row["name"], row["state"], "" if row["present"] else _size(row.get("size", 0)), row.get("command", ""))
        for row in report["datasets"]
    ]
    bases = [
        (row["name"], row["repo"], *(("there", "") if row["present"] else ("missing", _size(row["size"]))))
        for row in report["bases"]
    ]
    methods: dict[tuple[str, str], list[str]] = {}
    for row in report["methods"]:
        names = row.get("error") or ", ".join(
            f"{model['name']}{'' if model['present'] else ' (missing)'}" for model in row["models"]
        )
        methods.setdefault((row["method"], names or "no model"), []).append(row["preset"] or "defaults")
    needs = [(method, ", ".join(presets), models) for (method, models), presets in methods.items()]
    return [
        *sections,
        text_table(data, ("dataset", "images", "download", "command")),
        text_table(bases, ("base model", "--set base=", "state", "download")),
        text_table(needs, ("method", "settings", "loads")),
    ]


def _run_sections(run: dict[str, Any]) -> list[str]:
    needs = [
        (need["use"], need["name"], "there", "", "")
        if need["present"]
        else (need["use"], need["name"], "missing", _size(need["size"]), need["command"])
        for need in run["needs"]
    ]
    costs = []
    for task, cost in run["costs"].items():
        if cost is None:
            costs.append((task, "unknown", "unknown", "no run below --runs is similar"))
            continue
        gpu = f", {format_bytes(cost['gpu_memory'])} on the GPU" if cost["gpu_memory"] else ""
        memory = (format_bytes(cost["memory"]) if cost["memory"] else "") + gpu
        by = f"{cost['precedents']}; {', '.join(cost['devices'])}"
        costs.append((task, format_seconds(cost["seconds"]), memory.removeprefix(", "), by))
    problems = [f"it would fail: {problem}" for problem in run["problems"]]
    return [
        *([text_table(needs, ("needs", "", "state", "download", "command"))] if needs else []),
        text_table(costs, ("costs", "time", "memory", "by")),
        "\n".join(problems) or "nothing found that would make it fail",
    ]


def _size(count: int) -> str:
    return format_bytes(count) if count else "unknown"
