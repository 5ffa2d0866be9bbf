"""Texts of the tree become pages: code is left alone, sections are cut out, links are right."""

from __future__ import annotations

import pytest
from command_lines import ROOT, split

from docs_site.markdown import (
    code_blocks,
    headings,
    indent_lists,
    links,
    map_links,
    section,
    without_remote_pictures,
)
from docs_site.pages import Site, source_page

TEXT = """\
# A title

Words with `[no](link.md)`, [a link](data.md#columns) and [`code`](x.py).

<!-- not run: needs a TPU -->
```sh
corl plan  # [neither](this.md)
```

## eval.json

below

### Deeper

```python
# a comment is no heading
```

## The end
"""


def test_links_are_those_outside_of_code():
    assert links(TEXT) == ["data.md#columns", "x.py"]
    changed = map_links(TEXT, lambda target: "T")
    assert "`[no](link.md)`" in changed and "[`code`](T)" in changed and "this.md" in changed


def test_blocks_have_their_language_line_and_reason():
    shell, python = code_blocks(TEXT)
    assert (shell.language, shell.line, shell.not_run) == ("sh", 7, "needs a TPU")
    assert python.text == "# a comment is no heading" and not python.not_run


def test_headings_have_the_anchors_of_github():
    assert [slug for _, _, slug in headings(TEXT)] == ["a-title", "evaljson", "deeper", "the-end"]
    assert headings("## Does it fit, and `what`?\n")[0][2] == "does-it-fit-and-what"


def test_a_section_ends_at_the_next_heading_of_its_level():
    text = section(TEXT, "evaljson")
    assert text.startswith("below") and "### Deeper" in text and "The end" not in text
    with pytest.raises(KeyError):
        section(TEXT, "nothing")


def test_commands_are_split_as_a_shell_does():
    assert split("a 'b c' && d  # e\nf \\\n  g | h") == [
        (0, ("a", "b c")),
        (0, ("d",)),
        (1, ("f", "g")),
        (1, ("h",)),
    ]


def test_lists_are_indented_for_python_markdown():
    text = indent_lists("Words:\n* a\n  goes on\n  * b\n1. c\n   d\n\nNo list")
    assert text.split("\n") == [
        "Words:",
        "",
        "* a",
        "    goes on",
        "    * b",
        "1. c",
        "    d",
        "",
        "No list",
    ]


def test_pictures_of_other_hosts_become_their_texts():
    text = "[![Open in Colab](https://example.org/badge.svg)](https://example.org/nb)"
    assert without_remote_pictures(text) == "[Open in Colab](https://example.org/nb)"


@pytest.mark.parametrize(
    ("source", "page", "target", "expected"),
    [
        ("docs/rewards.md", "rewards.md", "data.md#columns", "data.md#columns"),
        ("docs/rewards.md", "rewards.md", "../tpu/README.md", "first_hour_tpu.md"),
        ("README.md", "project/readme.md", "docs/data.md#columns", "../data.md#columns"),
        ("README.md", "index.md", "docs/before_after.png", "before_after.png"),
        ("docs/studies.md", "studies.md", "../configs/studies.py", "tree/configs/studies.py.md"),
        ("README.md", "index.md", "notebooks/01_a.ipynb", "notebooks/01_a.md"),
        ("docs/data.md", "data.md", "#columns", "#columns"),
        ("docs/data.md", "data.md", "https://example.org/a", "https://example.org/a"),
    ],
)
def test_a_link_leads_to_the_page_of_its_file(source, page, target, expected):
    assert Site(ROOT).target(target, source, page) == expected


def test_files_that_are_linked_get_pages_with_their_source():
    site = Site(ROOT)
    site.text("docs/studies.md", "studies.md")
    assert "configs/studies.py" in site.sources
    assert "````python\n" in source_page(ROOT, "configs/studies.py")
    assert "* `unified.py`" in source_page(ROOT, "configs")
