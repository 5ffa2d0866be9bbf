"""Writes the project's address into what is about to be built, for the release workflow.

    python .ci/release_metadata.py https://github.com/OWNER/NAME v0.1.0

The page on PyPI shows README.md without the files beside it, so links to them become addresses of
the tag, and pyproject.toml gets a table of URLs. The tree itself names no address: a fork releases
under its own. Changes README.md and pyproject.toml of this checkout, which is built and thrown away.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
ADDRESS = re.compile(r"https://[\w.-]+/[\w.-]+/[\w.-]+")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
"""A link of Markdown, and with ``!`` a picture."""


def with_addresses(readme: str, repository: str, tag: str) -> str:
    """The text of README.md whose links to files of the project are addresses of the tag."""

    def replace(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        # Addresses, and headings of the page itself.
        if target.startswith(("https://", "http://", "#")):
            return match[0]
        view = "raw" if picture else "blob"
        return f"{picture}[{text}]({repository}/{view}/{tag}/{target})"

    return LINK.sub(replace, readme)


def url_table(repository: str, tag: str) -> str:
    """The table ``project.urls`` of pyproject.toml."""
    urls = {
        "Repository": repository,
        "Documentation": f"{repository}/tree/{tag}/docs",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    return "\n".join(["[project.urls]", *(f'{name} = "{url}"' for name, url in urls.items())])


def main(arguments: list[str]) -> int:
    """Changes both files; returns the exit code."""
    if len(arguments) != 2 or not ADDRESS.fullmatch(arguments[0]):
        print(
            f"error: expected an address https://HOST/OWNER/NAME and a tag; got {arguments}",
            file=sys.stderr,
        )
        return 2
    repository, tag = arguments

    readme = ROOT / "README.md"
    readme.write_text(with_addresses(readme.read_text("utf-8"), repository, tag), "utf-8")
    project = ROOT / "pyproject.toml"
    text = project.read_text("utf-8")
    if "[project.urls]" in text:
        print("error: pyproject.toml has a table project.urls already", file=sys.stderr)
        return 2
    project.write_text(f"{text.rstrip()}\n\n{url_table(repository, tag)}\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
