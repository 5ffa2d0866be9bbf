"""Formulas as math-verify is to parse them: their sides, the relations between them, their unit."""

from __future__ import annotations

import dataclasses
import re

from corl_jax.data.answers.wrappers import closing_bracket
from corl_jax.rewards.parsing.answers import TAG
from corl_jax.rewards.parsing.numbers import only_number
from corl_jax.rewards.parsing.units import Unit, split_unit

# "$$...$$", "$...$", "\(...\)" or "\[...\]"
MARKED_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
ANY_MARK = re.compile(r"\$|\\\(|\\\[|\\boxed")
# One sign for every spelling of a relation. What is only approximate counts as equal.
RELATIONS = (
    (re.compile(r"\\(?:leqslant|leq?)(?![A-Za-z])|<=|⩽"), "≤"),
    (re.compile(r"\\(?:geqslant|geq?)(?![A-Za-z])|>=|⩾"), "≥"),
    (re.compile(r"\\neq?(?![A-Za-z])|!="), "≠"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\approx(?![A-Za-z])|≈|^~"), "="),
)
SIGN = re.compile("[<>≤≥≠]")
MIRRORED = {">": "<", "≥": "≤", "≠": "≠"}
# Notation without LaTeX, in the order in which it is replaced.
PLAIN_TO_LATEX = (
    # "√3", "√x" and "sqrt 3" take the number or letter that follows; "√(...)" keeps its brackets.
    (re.compile(r"√\s*([0-9.]+|[A-Za-z])|(?<!\\)sqrt ?([0-9.]+)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√"), r"\\sqrt"),
    (re.compile(r"\^(-?[0-9]{2,}|-[0-9])"), r"^{\1}"),
    (re.compile(r"×|·"), r"\\cdot "),
    (re.compile(r"±"), r"\\pm "),
    # "3 1/2"
    (re.compile(r"(?<![0-9.])([0-9]+) ([0-9]+)/([0-9]+)(?![0-9.])"), r"\1\\frac{\2}{\3}"),
)
# A word of three letters or more that is neither a function nor a LaTeX command.
PROSE = re.compile(r"(?<![\\A-Za-z])(?!sqrt|sin|cos|tan|log|exp|frac)[A-Za-z]{3,}")
LIST = re.compile(r",|\bor\b|\band\b")


@dataclasses.dataclass(frozen=True)
class Formula:
    """A formula, in parts that are compared one by one.

    Attributes:
      sides: what math-verify is to parse, ``["x", "5"]`` in dollar signs for ``x < 5``; a side may
        be empty (``< 5``). Several marked formulas are one side, as they are written.
      signs: the relations between the sides: ``<``, ``≤`` or ``≠``; larger sides come last.
      unit: the unit at the end, or None.
    """

    sides: tuple[str, ...]
    signs: tuple[str, ...] = ()
    unit: Unit | None = None


def read_formula(text: str) -> Formula | None:
    r"""The formula that a short answer is, or None if it has no single one.

    Of an equation only the last side counts (``AB = 2√3``), plain notation (``√``, ``×``,
    ``sqrt(3)``) becomes LaTeX, and words around a formula that is marked (by dollar signs or
    ``\boxed``) are left out. Prose without a marked formula counts only if it names exactly one
    number, because math-verify would take the first number that it finds in ``2\sqrt{3}``.

    Args:
      text: an answer as ``read_answer`` gives it.
    """
    text = " ".join(TAG.sub(" ", text).split()).rstrip(". ")
    marked = _unmark(text)
    if marked is None:
        # Several formulas: math-verify makes a set of them.
        return Formula((text,))

    text, is_marked = marked
    for pattern, sign in RELATIONS:
        text = pattern.sub(sign, text)
    text, unit = split_unit(text.rstrip(". "))

    # Every side by itself; the smaller ones first, so that 5 > x is x < 5.
    signs = SIGN.findall(text)
    sides = [_read_side(side.strip(), is_marked, bool(signs)) for side in SIGN.split(text)]
    if None in sides or not any(sides):
        return None
    if signs and signs[0] in ">≥":
        sides, signs = sides[::-1], [MIRRORED.get(sign, sign) for sign in reversed(signs)]
    return Formula(tuple(side or "" for side in sides), tuple(signs), unit)


def _unmark(text: str) -> tuple[str, bool] | None:
    """The formula that a text marks and True, or the text and False; None if it marks several."""
    if not ANY_MARK.search(text):
        return text, False

    # A box is the answer, whatever is around it.
    start = text.rfind("\\boxed{")
    if start >= 0:
        end = closing_bracket(text, start + len("\\boxed"))
        if text.count("\\boxed") > 1 or end is None:
            return None
        content = text[start + len("\\boxed{") : end]
        return f"{content}{_unit_behind(text[end + 1 :].lstrip('$'))}", True

    formulas = list(MARKED_FORMULA.finditer(text))
    if len(formulas) != 1:
        return None
    before, after = text[: formulas[0].start()], text[formulas[0].end() :]
    content = next(group for group in formulas[0].groups() if group is not None)
    # "x > $5$" has its relation outside.
    relation = before if SIGN.search(before) and not PROSE.search(before) else ""
    return f"{relation}{content.strip()}{_unit_behind(after)}", True


def _unit_behind(text: str) -> str:
    """``text`` if it is a unit, which belongs to the formula before it; otherwise nothing."""
    rest, unit = split_unit(f"1 {text.strip()}")
    return f" {text.strip()}" if unit and rest == "1" else ""


def _read_side(text: str, is_marked: bool, has_relation: bool) -> str | None:
    """One side of a relation, or a whole formula, in dollar signs; None if it is not readable."""
    # "AB = 2√3" means the right-hand side; a list such as "x = 4, 5" stays whole.
    if not is_marked and not LIST.search(text):
        text = re.split(r"=|\bis\b|\bequals\b", text)[-1].strip()
    for pattern, latex in PLAIN_TO_LATEX:
        text = pattern.sub(latex, text)

    # A sentence is read only for its number.
    if not is_marked and PROSE.search(text):
        number = only_number(text)
        return None if number is None or "\\" in text or has_relation else f"${number}$"
    return text and f"${text}$"
