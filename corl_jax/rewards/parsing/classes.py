"""Names of object classes: plain forms, and how well two lists of them agree. In: strings; out: sets and a score."""

from __future__ import annotations

import re

from corl_jax.rewards.parsing.answers import normalise

IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
}
ENDINGS = (
    ("ies", "y"),
    ("ie", "y"),
    ("ves", "f"),
    ("ve", "f"),
    ("fe", "f"),
    ("oes", "o"),
    ("oe", "o"),
)
HISSES = ("ses", "xes", "zes", "ches", "shes")
SEPARATORS = re.compile(r"[,;\n|&\[\]{}]|\band\b", re.I)


def plain_class(name: str) -> str:
    """One class name, so that the same thing has one spelling: lower case, no articles, no count, singular.

    The singular is a stem for comparing and need not be a word (``horses`` and ``horse`` are both ``hors``).
    """
    words = re.sub(r"^(?:[0-9.]+ )+", "", normalise(name)).split()
    return " ".join([*words[:-1], *map(_singular, words[-1:])])


def _singular(word: str) -> str:
    word = IRREGULAR.get(word, word)
    plural = word.endswith("s") and not word.endswith(("ss", "us"))
    if len(word) <= 4 and (plural or len(word) < 4):
        return word.removesuffix("s") if len(word) == 4 else word
    for ending, stem in ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + stem
    if word.endswith(HISSES):
        return word.removesuffix("es")
    return (word.removesuffix("s") if plural else word).removesuffix("e")


def class_set(text: str) -> frozenset[str]:
    """The classes that a list names: parted by commas, semicolons, bars, lines or ``and``; brackets, quotes, counts and
    bullets are allowed."""
    return frozenset(name for part in SEPARATORS.split(text) if (name := plain_class(part)))


def class_f1(answer: str, reference: str) -> float:
    """F1 of two lists of classes as sets, ``2 |A and B| / (|A| + |B|)``.

    Raises:
      ValueError: a reference that names no class.
    """
    expected, named = class_set(reference), class_set(answer)
    if not expected:
        raise ValueError(f"the reference {reference[:80]!r} names no object class")
    return 2 * len(named & expected) / (len(named) + len(expected))
