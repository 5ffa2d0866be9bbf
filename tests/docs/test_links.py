"""Links, anchors and file names in the README, CONTRIBUTING, the TPU kit and the docs lead somewhere."""

from __future__ import annotations

import re

import pytest
import yaml
from command_lines import ROOT

from docs_site.markdown import headings, links
from docs_site.pages import DOCS, INCLUDE, PAGES, docs_pages, tree_path

SOURCES = sorted({*PAGES, *(f"{DOCS}/{page}" for page in docs_pages(ROOT))})


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def broken_links(source, text):
    """The links of a text at the path ``source`` that lead nowhere."""
    broken = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        linked = tree_path(path, source) if path else source
        exists = (ROOT / linked).exists()
        if exists and anchor and linked.endswith(".md"):
            own = text if linked == source else read(linked)
            exists = anchor in [slug for _, _, slug in headings(own)]
        if not exists:
            broken.append(target)
    return broken


@pytest.mark.parametrize("source", SOURCES)
def test_links_lead_somewhere(source):
    assert not broken_links(source, read(source))


def test_broken_links_are_found():
    text = "[a](data.md#no-such) [b](nothing.md) [c](data.md#columns) [d](#here)\n\n## Here\n`[e](x.md)`"
    assert broken_links("docs/lora.md", text) == ["data.md#no-such", "nothing.md"]


@pytest.mark.parametrize("source", SOURCES)
def test_included_sections_exist(source):
    for line in read(source).split("\n"):
        if line.startswith(INCLUDE):
            path, _, anchor = line.removeprefix(INCLUDE).removesuffix(" -->").partition("#")
            assert anchor in [slug for _, _, slug in headings(read(tree_path(path, source)))], line


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "CHANGELOG.md"])
def test_files_that_texts_name_exist(source):
    """``configs/unified.py``, ``docs/data.md``, ``models/layers.py``: from the top or the package."""
    rooms = [path.name for path in (ROOT / "corl_jax").iterdir() if path.is_dir()]
    folders = "|".join(["configs", "docs", "tests", "tpu", "notebooks", "corl_jax", *rooms])
    pattern = rf"`((?:{folders})/[\w/]+\.(?:py|md|sh|ipynb))`"
    for name in re.findall(pattern, read(source)):
        places = (name, f"corl_jax/{name}", f"docs/{name}")
        assert any((ROOT / place).exists() for place in places), f"{source}: {name}"


def navigation():
    """Pages of the navigation, from ``mkdocs.yml`` without its tags of Python."""

    class Loader(yaml.SafeLoader):
        """Reads tags that only mkdocs understands as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]

    return pages(config["nav"])


def test_every_page_has_its_place_in_the_navigation():
    written = {*docs_pages(ROOT), *PAGES.values()}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    missing = (written | notebooks) - set(navigation())
    assert not missing, f"add to nav in mkdocs.yml: {sorted(missing)}"
