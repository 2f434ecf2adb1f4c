"""Hooks of `make docs`: no address is opened while the site is built, and none when it is read."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError

from ddbench.cli.main import cli

ROOT = Path(__file__).parents[1]
# what a browser loads by itself; a link to follow (<a href>) is none
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"' >]+)"""
)
# a link of a page to a file of the repository outside docs/
OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<up>(?:\.\./)+)(?P<path>[^)\s#]+)\)")


def on_startup(**_: Any) -> None:
    """Refuse connections of this process."""

    def refuse(event: str, arguments: tuple) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):
            raise PluginError(f"building the documents opened a network address: {event}{arguments[-1:]}")

    sys.addaudithook(refuse)
    show_examples_as_code(cli)


def show_examples_as_code(command: click.Command) -> None:
    """Write the examples of each command's help as code, where click keeps the lines as they are."""
    blocks = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(as_code(block) if block.startswith("\b") else block for block in blocks)
    for sub in getattr(command, "commands", {}).values():
        show_examples_as_code(sub)


def as_code(block: str) -> str:
    """Return the block with its indented lines as code of Markdown: four spaces and blank lines around them."""
    lines = block.removeprefix("\b\n").split("\n")
    return re.sub(r"(?m)^(?! )(.*)$", r"\n\1\n", "\n".join(f"  {line}" if line[:1] == " " else line for line in lines))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write a link to a file outside docs/ as the file's name: the site does not have the file."""

    def name(match: re.Match) -> str:
        target = (Path(page.file.abs_src_path).parent / match["up"] / match["path"]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        return f"{match['text']} (`{target.relative_to(ROOT)}`)"

    return OUTSIDE.sub(name, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Raise PluginError if a page loads something from the network."""
    for file in Path(config["site_dir"]).rglob("*.html"):
        for match in LOADED.finditer(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file.relative_to(config['site_dir'])} loads {match[1]}")
