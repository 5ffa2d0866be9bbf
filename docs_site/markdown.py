"""Texts of Markdown: their code, sections, headings, anchors and links."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

from pymdownx.slugs import slugify

FENCE = re.compile(r"^ *(?P<marks>```+|~~~+)(?P<info>.*)$")
HEADING = re.compile(r"^(?P<level>#{1,6}) (?P<title>.+?)(?: #+)?$")
INLINE_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
REMOTE_PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\(https?://[^)]*\)")
MARKER = re.compile(r"^<!-- not run: (?P<reason>.+?) -->$")

make_slug = slugify(case="lower")
"""The anchor of a heading as GitHub makes it: ``(text, "-") -> anchor``."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code between fences.

    Attributes:
      line: number of its first line of code, from 1.
      language: the word after the fence; "" for none.
      text: the code.
      not_run: why nobody runs it, from ``<!-- not run: REASON -->`` before it; "" where it is run.
    """

    line: int
    language: str
    text: str
    not_run: str


def map_prose(text: str, change: Callable[[str], str]) -> str:
    """``text`` with every line outside of blocks of code changed."""
    return "\n".join(line if is_code else change(line) for line, is_code in _lines_and_code(text))


def _lines_and_code(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a text, and whether each is code or a fence."""
    opening = ""
    for line in text.split("\n"):
        fence = FENCE.match(line)
        if opening:
            yield line, True
            if fence and fence["marks"].startswith(opening) and not fence["info"].strip():
                opening = ""
        else:
            yield line, fence is not None
            opening = fence["marks"] if fence else ""


def code_blocks(text: str) -> list[Block]:
    """The blocks of code of a text."""
    blocks: list[Block] = []
    lines, start, reason = text.split("\n"), 0, ""
    is_open, language = False, ""
    for number, (line, is_code) in enumerate(_lines_and_code(text), 1):
        fence = FENCE.match(line)
        if is_code and not is_open and fence:
            is_open, language, start = True, fence["info"].strip(), number
        elif is_open and fence and not fence["info"].strip():
            blocks.append(Block(start + 1, language, "\n".join(lines[start : number - 1]), reason))
            is_open, reason = False, ""
        elif not is_open and line.strip():
            marker = MARKER.match(line)
            reason = marker["reason"] if marker else ""
    return blocks


def headings(text: str) -> list[tuple[int, str, str]]:
    """Level, title and anchor of every heading, in the order of the text."""
    found: list[tuple[int, str, str]] = []
    counts: dict[str, int] = {}
    for line, is_code in _lines_and_code(text):
        match = None if is_code else HEADING.match(line)
        if match:
            slug = make_slug(re.sub(r"[`*]|\]\([^)]*\)|\[", "", match["title"]), "-")
            count = counts[slug] = counts.get(slug, -1) + 1
            found.append(
                (len(match["level"]), match["title"], f"{slug}_{count}" if count else slug)
            )
    return found


def section(text: str, anchor: str) -> str:
    """What stands below the heading of an anchor, without the heading itself.

    Raises:
      KeyError: no heading has the anchor.
    """
    levels = {slug: level for level, _, slug in headings(text)}
    level, remaining, taken, is_inside = levels[anchor], headings(text), [], False
    for line, is_code in _lines_and_code(text):
        if not is_code and HEADING.match(line):
            this_level, _, this_anchor = remaining.pop(0)
            if this_anchor == anchor:
                is_inside = True
                continue
            is_inside = is_inside and this_level > level
        if is_inside:
            taken.append(line)
    return "\n".join(taken).strip() + "\n"


def map_links(text: str, change: Callable[[str], str]) -> str:
    """``text`` with the target of every link and picture changed, outside of code."""

    def change_line(line: str) -> str:
        # Code within a line is put aside, since brackets in it are no links.
        codes: list[str] = []

        def put_aside(match: re.Match[str]) -> str:
            codes.append(match[0])
            return f"\x00{len(codes) - 1}\x00"

        line = INLINE_CODE.sub(put_aside, line)
        line = LINK.sub(lambda match: f"]({change(match['target'])})", line)
        return re.sub(r"\x00(\d+)\x00", lambda match: codes[int(match[1])], line)

    return map_prose(text, change_line)


def without_remote_pictures(text: str) -> str:
    """``text`` with the texts of pictures in place of those that another host would be asked for."""
    return map_prose(text, lambda line: REMOTE_PICTURE.sub(lambda match: match["text"], line))


def links(text: str) -> list[str]:
    """The targets of all links and pictures outside of code."""
    found: list[str] = []

    def note(target: str) -> str:
        found.append(target)
        return target

    map_links(text, note)
    return found


def indent_lists(text: str) -> str:
    """``text`` with what belongs to items of lists indented as Python-Markdown needs it.

    GitHub takes the two columns of ``* `` as enough, Python-Markdown takes four.
    """
    lines: list[str] = []
    is_in_list = False
    for line, is_code in _lines_and_code(text):
        indent = len(line) - len(line.lstrip(" "))
        is_item = not is_code and re.match(r"^ *(?:[*+-]|\d+\.) ", line) is not None
        if is_item or (is_in_list and indent):
            # A list begins after a blank line only.
            if is_item and not is_in_list and lines and lines[-1].strip():
                lines.append("")
            is_in_list = True
            line = " " * (indent // 2 * 4) + line.lstrip(" ")
        elif line.strip():
            is_in_list = False
        lines.append(line)
    return "\n".join(lines)
