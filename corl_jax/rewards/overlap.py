"""Soft overlap of two phrases. In: strings; out: a number in [0, 1]."""

from __future__ import annotations

import difflib

THRESHOLD = 0.8
BUDGET = 1_000_000
"""Pairs of characters that are compared for spelling before the words that are left count as unmatched."""


def soft_jaccard(candidate: str, reference: str) -> float:
    """Jaccard overlap of two sets of words in which similar spellings count in part.

    Words are split at white space and lower-cased. Words of both count 1. Then each other word of the candidate, in
    the order of the text, takes the unused word of the reference that it resembles most
    (``difflib.SequenceMatcher.ratio`` of at least 0.8) and counts that ratio. With ``m`` the sum, the overlap is
    ``m / (|A| + |B| - m)``, and 0 for two empty phrases. Compatible with ``soft_jaccard`` of ULM-R1
    (``rewards/r_utils.py``), which takes the words in no fixed order. Spelling is compared for phrases of up to some
    hundred words, see ``BUDGET``, so that the time is bounded.
    """
    left, right = dict.fromkeys(candidate.lower().split()), dict.fromkeys(reference.lower().split())
    matched = float(len(left.keys() & right.keys()))
    free = {word: difflib.SequenceMatcher(None, "", word) for word in right if word not in left}
    budget = BUDGET
    for word in left:
        if word in right:
            continue
        best, taken = 0.0, ""
        for other, matcher in free.items():
            if 2 * min(len(word), len(other)) < THRESHOLD * (len(word) + len(other)):
                budget -= 1
                continue
            budget -= len(word) * len(other)
            if budget < 0:
                break
            matcher.set_seq1(word)
            ratio = matcher.ratio() if matcher.quick_ratio() >= THRESHOLD else 0.0
            if ratio > best and ratio >= THRESHOLD:
                best, taken = ratio, other
        if budget < 0:
            break
        if taken:
            matched += best
            del free[taken]
    union = len(left) + len(right) - matched
    return matched / union if union else 0.0
