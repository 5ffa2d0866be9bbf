"""Texts as Markdown: what a value contains is shown as it is and never becomes a part of the page.

HTML's escaping is not enough, since a bar ends the cell of a table and a backtick begins code.
"""

from __future__ import annotations

import html
import re

LONGEST = 600
"""Most characters of one value; a caption may have any number."""


class Markdown(str):
    """A text that is Markdown already."""


def escape(value: object) -> Markdown:
    """A value as one line of text."""
    if isinstance(value, Markdown):
        return value
    text = html.escape(_one_line(str(value)), quote=False)
    text = re.sub(r"([\\`*_{}\[\]()#~|$!@])", r"\\\1", text)
    # Addresses would become links.
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    # What begins a line may begin a list, a rule or a heading.
    text = re.sub(r"^([-+=])(?=[-+=\s]|$)", r"\\\1", text)
    return Markdown(re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text))


def code(text: str) -> Markdown:
    """A text as code within a line, also in a table."""
    text = _one_line(text).replace("|", "\\|")
    fence = "`" * (_longest_run(text) + 1)
    # One blank at each side belongs to the fence where the text has backticks of its own.
    blank = " " if "`" in text else ""
    return Markdown(f"{fence}{blank}{text}{blank}{fence}" if text else "")


def code_block(text: str, language: str) -> Markdown:
    """Lines of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def _one_line(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)
