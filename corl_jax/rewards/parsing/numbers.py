"""The number that an answer names: in digits, with separators and decimals, or in words."""

from __future__ import annotations

import decimal
import re

from corl_jax.core.errors import UserError
from corl_jax.data.answers.number_words import as_digits
from corl_jax.rewards.parsing.answers import TAG

# A number in digits that is not part of a word, a version number or a power.
NUMBER = re.compile(
    r"(?<![\w.^{√])[-+]?"
    # "1,250", with a separator before every three digits, or "1250"; then decimals, or only ".5".
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    # An exponent: "1e3".
    r"(?:e[-+]?[0-9]{1,3})?"
    # Not "1.2.3", not "5^2".
    r"(?!\.?[0-9]|e[-+]?[0-9]|\s?\^)"
)
NUMBER_OR_WORD = re.compile(rf"{NUMBER.pattern}|[a-z]+(?:-[a-z]+)*")
# What makes a number part of a relation, a root, a fraction or several numbers.
NO_PLAIN_NUMBER = re.compile(
    r"<|(?<![-=])>|[≤≥≠±√]|[0-9]\s?/\s?[0-9]|\\(?:pm|mp|[dt]?frac|sqrt|l[et]q?|g[et]q?|neq?)(?![a-z])"
)
PLAIN_SYMBOLS = (
    ("°", " "),
    (r"^{\circ}", " "),
    (r"^\circ", " "),
    (r"\boxed{", " "),
    ("$", " "),
)
"""Symbols around numbers, and what replaces them."""


def only_number(text: str) -> decimal.Decimal | None:
    """The one number that a text names, or None if it names none or several different ones.

    Units are ignored (``5 cm^2`` is 5, ``45°`` is 45). A number that is repeated counts once
    (``3 (three)``). After a single equals sign only the right-hand side counts (``2 + 1 = 3``).
    Fractions, roots, powers and relations (``> 5``, ``±5``) are not numbers here.
    """
    # One notation, and of an equation only its result.
    text = TAG.sub(" ", text).lower()
    for symbol, replacement in PLAIN_SYMBOLS:
        text = text.replace(symbol, replacement)
    if text.count("=") == 1:
        text = text.split("=")[1]
    if NO_PLAIN_NUMBER.search(text):
        return None

    # Stop at the second value, so that a long list of numbers costs no time.
    values: set[decimal.Decimal] = set()
    for word in as_digits(NUMBER_OR_WORD.findall(text)):
        # Words end in letters, numbers in digits.
        if word[-1].isdigit():
            values.add(decimal.Decimal(word.replace(",", "")))
            if len(values) > 1:
                return None
    return values.pop() if values else None


def same_number(answer: str, reference_answer: str) -> bool:
    """Whether an answer names exactly one number, equal to the reference answer's as a decimal.

    ``3`` equals ``3.0``.

    Raises:
      UserError: the reference answer does not name exactly one number.
    """
    expected = only_number(reference_answer)
    if expected is None:
        raise UserError(
            "the reference answer must name exactly one number; "
            f"got {reference_answer[:80]!r}. Correct the record's answer."
        )
    return only_number(answer) == expected
