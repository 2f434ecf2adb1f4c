"""The site loads nothing from the network; help becomes Markdown; docstrings become lists."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")  # make docs installs it
sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import docstrings
import site_hooks

PLAIN = '<a href="https://example.org">followed, not loaded</a><script src="js/local.js"></script>'
LOADED = [
    '<script async src="https://example.org/a.js"></script>',
    "<img alt=a src=http://example.org/a.png>",
    '<link rel="stylesheet" href="//example.org/a.css">',
]


@pytest.mark.parametrize("text", LOADED)
def test_a_page_that_loads_from_the_network_is_refused(text, tmp_path):
    (tmp_path / "page.html").write_text(PLAIN)
    site_hooks.on_post_build({"site_dir": str(tmp_path)})
    (tmp_path / "page.html").write_text(PLAIN + text)
    with pytest.raises(site_hooks.PluginError, match=r"page.html loads .*example.org"):
        site_hooks.on_post_build({"site_dir": str(tmp_path)})


def test_examples_become_code():
    assert site_hooks.as_code("\b\nExamples:\n  ddbench list\n  ddbench run").split("\n") == [
        "",
        "Examples:",
        "",
        "    ddbench list",
        "    ddbench run",
    ]


def test_links_out_of_the_pages_become_names():
    page = SimpleNamespace(file=SimpleNamespace(abs_src_path=str(site_hooks.ROOT / "docs/example/README.md")))
    text = "[The plan](../../experiments/worked/plan.toml) and [the ablation](../dpd.md#the-ablation)"
    assert site_hooks.on_page_markdown(text, page) == (
        "The plan (`experiments/worked/plan.toml`) and [the ablation](../dpd.md#the-ablation)"
    )


def test_fields_of_a_docstring_become_a_list():
    import griffe

    code = 'def f(a, b):\n    """Return it.\n\n    a: one. b: two.\n    Raises what: other.\n    """'
    function = griffe.visit("m", Path("m.py"), code).functions["f"]
    docstrings.FieldLists().on_function(func=function)
    assert function.docstring.value == "Return it.\n\n\n- `a`: one.\n\n- `b`: two.\nRaises what: other."
