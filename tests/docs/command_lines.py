"""The commands that readers see: those of blocks of code, and those within texts."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

from docs_site.markdown import INLINE_CODE, Block, code_blocks, map_prose

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tpu/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    )
)
"""Every page with commands that are meant to be right today."""

SHELLS = ("sh", "bash", "console")
TRAIN = ["python", "-m", "corl_jax.main"]


@dataclasses.dataclass(frozen=True)
class Line:
    """One command of a page.

    Attributes:
      place: file and line, for errors.
      words: as the shell splits them.
      not_run: the reason that the page gives for not running it; "" where it gives none.
    """

    place: str
    words: tuple[str, ...]
    not_run: str

    @property
    def text(self) -> str:
        """The command in one line."""
        return shlex.join(self.words)

    @property
    def train_flags(self) -> tuple[str, ...] | None:
        """The flags of ``corl_jax.main``, where the command is one of it."""
        is_training = list(self.words[: len(TRAIN)]) == TRAIN
        return self.words[len(TRAIN) :] if is_training else None


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page."""
    return code_blocks((ROOT / page).read_text(encoding="utf-8"))


def lines_of(page: str) -> list[Line]:
    """The commands in the blocks of a page that are for a shell."""
    found = []
    for block in blocks(page):
        if block.language in SHELLS:
            for offset, words in split(block.text):
                place = f"{page}:{block.line + offset}"
                found.append(Line(place, words, block.not_run))
    return found


def split(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """The commands of a block, each with the number of its first line from 0."""
    commands, start, joined = [], 0, ""
    for number, line in enumerate(text.split("\n")):
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        lexer = shlex.shlex(joined, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if set(word) <= set("&|;"):
                if words:
                    commands.append((start, tuple(words)))
                words = []
            else:
                words.append(word)
        start, joined = number + 1, ""
    return commands


def inline_commands(page: str) -> list[str]:
    """Commands of ours within the texts of a page, as they are written there."""
    found: list[str] = []

    def note(line: str) -> str:
        for match in INLINE_CODE.finditer(line):
            code = match[0].strip("`").strip()
            if re.match(r"corl [a-z]+ |python -m corl_jax\.main ", code):
                found.append(code)
        return line

    map_prose((ROOT / page).read_text(encoding="utf-8"), note)
    return found


EVERY_LINE = [line for page in PAGES for line in lines_of(page)]
