"""Makes the pages of the site; ``mkdocs build`` runs it by the plugin gen-files.

Pages of ``docs/`` come again with links for the site; pages from other files of the tree, from the
configs, the commands and the notebooks are added.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[1]
# The plugin runs this file by its path, so its package is found only from here.
sys.path.insert(0, str(ROOT))

from docs_site.api_pages import API_PAGES  # noqa: E402
from docs_site.command_pages import commands_page  # noqa: E402
from docs_site.config_pages import keys_page  # noqa: E402
from docs_site.markdown import map_links  # noqa: E402
from docs_site.notebook_pages import notebook_page  # noqa: E402
from docs_site.pages import DOCS, PAGES, SECTIONS, Site, docs_pages, source_page  # noqa: E402
from docs_site.set_values_page import configs_page  # noqa: E402


def generate() -> None:
    """Writes all pages into the build."""
    site = Site(ROOT)
    for page in docs_pages(ROOT):
        write(page, site.text(f"{DOCS}/{page}", page))
    for source, page in PAGES.items():
        write(page, site.text(source, page))
    for page, (title, source, anchor) in SECTIONS.items():
        write(page, f"# {title}\n\n{site.section(source, anchor, page)}")

    write("reference/config_keys.md", keys_page())
    write("reference/configs.md", configs_page())
    write("reference/commands.md", commands_page())
    for api_page in API_PAGES:
        write(f"reference/api/{api_page.name}.md", api_page.text)

    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        source = f"notebooks/{notebook.name}"
        page = site.page(source)
        text, pictures = notebook_page(notebook)
        for name, data in pictures.items():
            with mkdocs_gen_files.open(f"notebooks/{name}", "wb") as file:
                file.write(data)
        write(page, map_links(text, link_of(site, source, page, pictures)))

    # Last, since only now it is known which files are linked.
    for path in sorted(site.sources):
        write(f"tree/{path}.md", source_page(ROOT, path))


def link_of(site: Site, source: str, page: str, pictures: Collection[str]) -> Callable[[str], str]:
    """From a target in a notebook to that on its page, beside which its pictures are."""

    def change(target: str) -> str:
        return target if target in pictures else site.target(target, source, page)

    return change


def write(page: str, text: str) -> None:
    """Adds a page to the build, or replaces it there."""
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)


generate()
