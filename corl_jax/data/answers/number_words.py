"""Numbers in English words, and their digits."""

from __future__ import annotations

from collections.abc import Sequence

# fmt: off
UP_TO_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty",
)
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}
# fmt: on
DIGITS = {name: value for value, name in enumerate(UP_TO_TWENTY[1:10], 1)}
HYPHENATED = {
    f"{tens_word}-{digit_word}": tens + digit
    for tens_word, tens in TENS.items()
    for digit_word, digit in DIGITS.items()
}
BELOW_HUNDRED = {name: value for value, name in enumerate(UP_TO_TWENTY)} | TENS | HYPHENATED
SCALES = {"million": 10**6, "thousand": 10**3}
NUMBER_WORDS = {*BELOW_HUNDRED, *SCALES, "hundred"}


def as_digits(words: Sequence[str]) -> list[str]:
    """Replaces every number in words by one word of digits: ``twenty one`` becomes ``21``.

    The words for zero to ninety-nine, hundred, thousand and million are known, with or without
    ``and`` after hundred and thousand.

    Args:
      words: lower-case words.
    """
    words = list(words)
    output: list[str] = []
    position = 0
    while position < len(words):
        # Most words are no numbers: look them up before trying to parse.
        value, length = 0, 0
        if words[position] in NUMBER_WORDS:
            value, length = _parse_number(words, position)

        if length:
            output.append(str(value))
            position += length
        else:
            output.append(words[position])
            position += 1
    return output


def _parse_number(words: list[str], start: int) -> tuple[int, int]:
    """The number that starts at word ``start`` and its length in words; (0, 0) if there is none."""
    total, length = 0, 0

    # "three million", then "two hundred thousand"; "thousand" alone is one thousand.
    for scale, size in SCALES.items():
        count, count_length, and_length = _parse_next_part(words, start, length)
        scale_position = start + length + and_length + count_length
        if words[scale_position : scale_position + 1] == [scale]:
            total += (count if count_length else 1) * size
            length += and_length + count_length + 1

    # What is left, below a thousand: "and twelve".
    rest, rest_length, and_length = _parse_next_part(words, start, length)
    if rest_length:
        return total + rest, length + and_length + rest_length
    return total, length


def _parse_next_part(words: list[str], start: int, length: int) -> tuple[int, int, int]:
    """A number below a thousand that continues the ``length`` words which are parsed already.

    Returns:
      Its value, its length in words, and 1 if an ``and`` joins it to the words before, otherwise 0.
    """
    and_length = int(length > 0 and words[start + length : start + length + 1] == ["and"])
    value, value_length = _parse_below_thousand(words, start + length + and_length)
    return value, value_length, and_length


def _parse_below_thousand(words: list[str], start: int) -> tuple[int, int]:
    """Value and length in words of a number such as ``two hundred and three``, or (0, 0)."""
    value, length = _parse_below_hundred(words, start)
    if words[start + length : start + length + 1] != ["hundred"]:
        return value, length

    # "hundred" alone is one hundred.
    value, length = 100 * (value if length else 1), length + 1

    # An "and" belongs to the number only if a number follows: "hundred and red" is 100.
    and_length = int(words[start + length : start + length + 1] == ["and"])
    rest, rest_length = _parse_below_hundred(words, start + length + and_length)
    if rest_length:
        return value + rest, length + and_length + rest_length
    return value, length


def _parse_below_hundred(words: list[str], start: int) -> tuple[int, int]:
    """Value and length in words of a number such as ``twenty one`` or ``twelve``, or (0, 0)."""
    # Slots beyond the end count as empty words.
    first = words[start] if start < len(words) else ""
    second = words[start + 1] if start + 1 < len(words) else ""
    if first in TENS and second in DIGITS:
        return TENS[first] + DIGITS[second], 2
    return (BELOW_HUNDRED[first], 1) if first in BELOW_HUNDRED else (0, 0)
