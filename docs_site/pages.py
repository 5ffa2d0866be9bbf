"""Pages of the site that are made of texts of the tree, with links that are right on the site.

A link in a text of the tree is relative and right on GitHub. On the site it leads to the page that
shows the same file: a page of ``docs/``, one of ``PAGES``, or a page with the source.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterable
from pathlib import Path

from docs_site.markdown import indent_lists, map_links, section, without_remote_pictures

DOCS = "docs"
"""Folder of the pages that are written by hand; a path below it is the path on the site."""

PAGES = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "tpu/README.md": "first_hour_tpu.md",
}
"""File of the tree to the page that shows the whole of it."""

SECTIONS = {"reference/glossary.md": ("Glossary", "CONTRIBUTING.md", "glossary")}
"""Page to its title and to the file and anchor of the section that it shows."""

INCLUDE = "<!-- include: "
"""Begins a line of a page in ``docs/`` that stands for a section: ``<!-- include: FILE#ANCHOR -->``."""

LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml", ".json": "json"}


@dataclasses.dataclass
class Site:
    """The pages as they are made, and what they link to.

    Attributes:
      root: folder of the tree.
      sources: files and folders of the tree that a page links to and that need a page of their own.
    """

    root: Path
    sources: set[str] = dataclasses.field(default_factory=set)

    def text(self, source: str, page: str) -> str:
        """What a page shows of a whole file of Markdown."""
        return self._adapted((self.root / source).read_text(encoding="utf-8"), source, page)

    def section(self, source: str, anchor: str, page: str) -> str:
        """What a page shows of one section, without its heading."""
        text = (self.root / source).read_text(encoding="utf-8")
        return self._adapted(section(text, anchor), source, page)

    def _adapted(self, text: str, source: str, page: str) -> str:
        text = indent_lists(without_remote_pictures(text))
        text = map_links(text, lambda target: self.target(target, source, page))
        return "\n".join(self._included(line, source, page) for line in text.split("\n"))

    def _included(self, line: str, source: str, page: str) -> str:
        if not line.startswith(INCLUDE):
            return line
        path, _, anchor = line.removeprefix(INCLUDE).removesuffix(" -->").partition("#")
        return self.section(tree_path(path, source), anchor, page)

    def target(self, target: str, source: str, page: str) -> str:
        """The target of a link on a page, from that in a file of the tree."""
        path, hash_mark, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return target
        linked = tree_path(path, source)
        return posixpath.relpath(self.page(linked), posixpath.dirname(page)) + hash_mark + anchor

    def page(self, path: str) -> str:
        """The page that shows a file or folder of the tree."""
        if path in PAGES:
            return PAGES[path]
        if path.startswith("notebooks/") and path.endswith(".ipynb"):
            return path.removesuffix(".ipynb") + ".md"
        if path.startswith(DOCS + "/"):
            return path.removeprefix(DOCS + "/")
        self.sources.add(path)
        return f"tree/{path}.md"


def tree_path(path: str, source: str) -> str:
    """The path from the top of the tree of what a file links to.

    Args:
      path: relative to the folder of the file.
      source: path of the file.
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def source_page(root: Path, path: str) -> str:
    """The page of a file of the tree that is no Markdown, or of a folder."""
    target = root / path
    # It is found by links and not by searching, where it would hide what explains it.
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if target.is_dir():
        names = sorted(child.name for child in target.iterdir() if is_public(child.name))
        return head + "".join(f"* `{name}`\n" for name in names)
    code = target.read_text(encoding="utf-8")
    return f"{head}````{LANGUAGES.get(target.suffix, 'text')}\n{code}````\n"


def is_public(name: str) -> bool:
    """Whether a file is one that a reader may look for."""
    return not name.startswith((".", "__pycache__"))


def docs_pages(root: Path) -> Iterable[str]:
    """The pages that are written by hand, as paths on the site."""
    return sorted(str(path.relative_to(root / DOCS)) for path in (root / DOCS).rglob("*.md"))
