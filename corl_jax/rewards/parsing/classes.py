"""Lists of object classes in texts: one spelling per class, and the F1 of two lists."""

from __future__ import annotations

import itertools
import re

from corl_jax.core.errors import UserError
from corl_jax.data.answers.words import answer_words

IRREGULAR_PLURALS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
}
STEMS = (
    ("ies", "y"),
    ("ie", "y"),
    ("ves", "f"),
    ("ve", "f"),
    ("fe", "f"),
    ("oes", "o"),
    ("oe", "o"),
)
"""Endings and what replaces them; plural and singular end alike, so that both get the same stem."""
SIBILANT_PLURALS = ("ses", "xes", "zes", "ches", "shes")
COUNT = re.compile(r"[0-9.]+")
SEPARATORS = re.compile(r"[,;\n|&\[\]{}]|\band\b", re.I)


def normalize_class(name: str) -> str:
    """One spelling for each class name: lower case, no articles, no count, singular.

    The singular is a stem for comparisons and need not be a word (``horses`` and ``horse`` both
    become ``hors``).
    """
    # Signs such as bullets are no words, and counts and numbers of a list come before the name.
    words = [word for word in answer_words(name) if any(map(str.isalnum, word))]
    counts = sum(1 for _ in itertools.takewhile(COUNT.fullmatch, words[:-1]))
    words = words[counts:]
    # Only the last word of a name has a plural: "hot dogs".
    return " ".join([*words[:-1], *map(_stem, words[-1:])])


def _stem(word: str) -> str:
    """The stem that singular and plural of a word share."""
    word = IRREGULAR_PLURALS.get(word, word)
    is_plural = word.endswith("s") and not word.endswith(("ss", "us"))

    # Short words only lose a plural s: the endings below would eat into "tie" or "toe".
    if len(word) <= 4 and (is_plural or len(word) < 4):
        return word.removesuffix("s") if len(word) == 4 else word

    # "berries" and "berry", "knives" and "knife", "tomatoes" and "tomato".
    for ending, replacement in STEMS:
        if word.endswith(ending):
            return word.removesuffix(ending) + replacement
    # "buses", "boxes", "benches".
    if word.endswith(SIBILANT_PLURALS):
        return word.removesuffix("es")
    return (word.removesuffix("s") if is_plural else word).removesuffix("e")


def class_set(text: str) -> frozenset[str]:
    """The classes that a text lists.

    Names are separated by commas, semicolons, bars, line breaks or ``and``. Brackets, quotes,
    counts and bullets are allowed.
    """
    parts = {part.strip() for part in SEPARATORS.split(text)}
    return frozenset(name for name in map(normalize_class, parts) if name)


def class_f1(answer: str, reference_answer: str) -> float:
    """F1 of two lists of classes as sets, ``2 |A and B| / (|A| + |B|)``.

    Raises:
      UserError: the reference answer names no class.
    """
    expected, predicted = class_set(reference_answer), class_set(answer)
    if not expected:
        raise UserError(
            "the reference answer must name at least one object class; "
            f"got {reference_answer[:80]!r}. Correct the record's answer."
        )
    return 2 * len(predicted & expected) / (len(predicted) + len(expected))
