"""Numbers in English text: digits, thousands, decimals, number words. In: strings; out: digits, or one value."""

from __future__ import annotations

import decimal
import re
from collections.abc import Sequence

NUMBERS = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
TENS = {
    name: 10 * i
    for i, name in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2
    )
}
DIGITS = {name: value for value, name in enumerate(NUMBERS[1:10], 1)}
BELOW_HUNDRED = (
    {name: value for value, name in enumerate(NUMBERS)}
    | TENS
    | {f"{ten}-{one}": TENS[ten] + DIGITS[one] for ten in TENS for one in DIGITS}
)
SCALES = {"million": 10**6, "thousand": 10**3}
SAID = {*BELOW_HUNDRED, *SCALES, "hundred"}

# A number in digits: not part of a word, a version or a power; thousands in threes or not at all.
NUMBER = re.compile(
    r"(?<![\w.^{√])[-+]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:e[-+]?[0-9]{1,3})?"
    r"(?!\.?[0-9]|e[-+]?[0-9]|\s?[\^²³])"
)
TOKEN = re.compile(rf"{NUMBER.pattern}|[a-z]+(?:-[a-z]+)*")
WRITTEN = (
    ("−", "-"),
    ("–", "-"),
    ("°", " "),
    (r"^{\circ}", " "),
    (r"^\circ", " "),
    (r"\boxed{", " "),
    ("$", " "),
)


def as_digits(words: Sequence[str]) -> list[str]:
    """Lower-case words with every number that is said in words as one word of digits: ``twenty one`` is ``21``.

    Known are zero to ninety-nine, hundred, thousand and million, with or without ``and`` after hundred and thousand.
    """
    words, out, at = list(words), [], 0
    while at < len(words):
        value, used = _spoken(words, at) if words[at] in SAID else (0, 0)
        out.append(str(value) if used else words[at])
        at += used or 1
    return out


def _spoken(words: list[str], at: int) -> tuple[int, int]:
    """The number that starts at word ``at`` and how many words it takes; (0, 0) for none."""
    total, used = 0, 0
    for scale, size in SCALES.items():
        value, more, joined = _joined(words, at, used)
        if words[at + used + joined + more : at + used + joined + more + 1] == [scale]:
            total += (value if more else 1) * size
            used += joined + more + 1
    value, more, joined = _joined(words, at, used)
    return (total + value, used + joined + more) if more else (total, used)


def _joined(words: list[str], at: int, used: int) -> tuple[int, int, int]:
    """A number below a thousand after ``used`` words: value, its words, and 1 if ``and`` joins it to those."""
    joined = int(used > 0 and words[at + used : at + used + 1] == ["and"])
    return *_below_thousand(words, at + used + joined), joined


def _below_thousand(words: list[str], at: int) -> tuple[int, int]:
    value, used = _below_hundred(words, at)
    if words[at + used : at + used + 1] == ["hundred"]:
        value, used = 100 * (value if used else 1), used + 1
        joined = int(words[at + used : at + used + 1] == ["and"])
        rest, more = _below_hundred(words, at + used + joined)
        if more:
            value, used = value + rest, used + joined + more
    return value, used


def _below_hundred(words: list[str], at: int) -> tuple[int, int]:
    first, second = (words[i] if i < len(words) else "" for i in (at, at + 1))
    if first in TENS and second in DIGITS:
        return TENS[first] + DIGITS[second], 2
    return (BELOW_HUNDRED[first], 1) if first in BELOW_HUNDRED else (0, 0)


def only_number(text: str) -> decimal.Decimal | None:
    """The one number that a text names, or None if it names none or different ones.

    Units are not read (``5 cm^2`` is 5, ``45°`` is 45), one number said twice is one number (``3 (three)``), and after
    a single equals sign only what follows counts (``2 + 1 = 3``). Fractions, roots and powers are no numbers here.
    """
    text = text.lower()
    for found, plain in WRITTEN:
        text = text.replace(found, plain)
    if text.count("=") == 1:
        text = text.split("=")[1]
    values: set[decimal.Decimal] = set()
    for word in as_digits(TOKEN.findall(text)):
        if word[-1].isdigit():
            values.add(decimal.Decimal(word.replace(",", "")))
            if len(values) > 1:
                return None
    return values.pop() if values else None


def same_number(answer: str, reference: str) -> bool:
    """Whether an answer names exactly one number and it is the reference's, as decimals (``3`` is ``3.0``).

    Raises:
      ValueError: a reference without exactly one number.
    """
    expected = only_number(reference)
    if expected is None:
        raise ValueError(f"the reference {reference[:80]!r} does not name exactly one number")
    return only_number(answer) == expected
