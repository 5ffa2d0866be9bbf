"""How much two texts have in common, word by word. In: two strings; out: a number in [0, 1]."""

from __future__ import annotations

import difflib

THRESHOLD = 0.8
"""Words at least this much alike count for as much as they are alike."""
LONGEST = 32
"""Letters of the longest word that is compared letter by letter."""
MOST = 100
"""Words of either text that are compared letter by letter: the first ones that the other text does not have."""


def soft_jaccard(candidate: str, reference: str) -> float:
    """Jaccard index of two sets of words in which words that are nearly the same count in part.

    Compatible with ``soft_jaccard`` of the CoRL release: lower case, words are what lies between white space, and each
    word of the candidate that the reference lacks takes the word most like it of those that are left, if difflib's
    ratio is at least ``THRESHOLD``. Here they choose in the order of the text, not in that of a set, which changes from
    run to run. The result is ``shared / (|A| + |B| - shared)``; 0 if both are empty.

    The time for a text of any length is that of reading it and of at most ``MOST ** 2`` ratios of words of ``LONGEST``
    letters; longer words, and words beyond the first ``MOST`` that only one text has, count if they are the same.
    """
    left, right = dict.fromkeys(candidate.lower().split()), dict.fromkeys(reference.lower().split())
    shared = float(sum(word in right for word in left))
    free = _compared(right, left)
    for word in _compared(left, right):
        ratios = {other: _ratio(word, other) for other in free}
        best = max(ratios, key=ratios.__getitem__, default=None)
        if best is not None and ratios[best] >= THRESHOLD:
            shared += ratios[best]
            free.remove(best)
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def _compared(words: dict[str, None], others: dict[str, None]) -> list[str]:
    return [word for word in words if word not in others and len(word) <= LONGEST][:MOST]


def _ratio(word: str, other: str) -> float:
    """difflib's ratio; 0 where its own bounds say that it is below the threshold."""
    matcher = difflib.SequenceMatcher(None, word, other)
    if matcher.real_quick_ratio() < THRESHOLD or matcher.quick_ratio() < THRESHOLD:
        return 0.0
    return matcher.ratio()
