"""Soft Jaccard index of two texts, word by word, in [0, 1]."""

from __future__ import annotations

import difflib

THRESHOLD = 0.8
"""The least similarity ratio at which two different words count, each pair by its ratio."""
MAX_WORD_LENGTH = 32
"""Letters of the longest word that is compared letter by letter."""
MAX_WORDS = 100
"""How many words of either text are compared letter by letter: the first that the other lacks."""


def soft_jaccard(candidate: str, reference: str) -> float:
    """Jaccard index of two sets of words in which nearly equal words count in part.

    Compatible with ``soft_jaccard`` of the CoRL release: texts are lower-cased and split at white
    space. Each candidate word that the reference text lacks is paired with the most similar
    reference word that is not paired yet, if difflib's ratio is at least ``THRESHOLD``. Unlike the
    release, words are paired in the order of the text, not of a set, whose order changes between
    runs. Two empty texts give 0.

    The time is linear in the length of the texts, plus that of at most ``MAX_WORDS ** 2`` ratios of
    words of ``MAX_WORD_LENGTH`` letters. Longer words, and words beyond the first ``MAX_WORDS``
    that only one text has, count only if both texts have them.

    Args:
      candidate: a text.
      reference: the text to compare with.

    Returns:
      ``shared / (|A| + |B| - shared)``.
    """
    # Dictionaries serve as sets that keep the order of the text.
    candidate_words = dict.fromkeys(candidate.lower().split())
    reference_words = dict.fromkeys(reference.lower().split())

    # Words that both texts have count fully.
    shared = float(sum(word in reference_words for word in candidate_words))

    # The others are paired greedily, and each pair counts by its ratio.
    unpaired = _words_to_pair(reference_words, candidate_words)
    for word in _words_to_pair(candidate_words, reference_words):
        ratios = {partner: _ratio(word, partner) for partner in unpaired}
        best = max(ratios, key=ratios.__getitem__, default=None)
        if best is not None and ratios[best] >= THRESHOLD:
            shared += ratios[best]
            unpaired.remove(best)

    # A pair of similar words counts in the union as two words minus what they share.
    union = len(candidate_words) + len(reference_words) - shared
    return shared / union if union else 0.0


def _words_to_pair(words: dict[str, None], excluded: dict[str, None]) -> list[str]:
    """The first ``MAX_WORDS`` words that are short enough and not among ``excluded``."""
    candidates = [word for word in words if word not in excluded and len(word) <= MAX_WORD_LENGTH]
    return candidates[:MAX_WORDS]


def _ratio(word: str, partner: str) -> float:
    """difflib's similarity ratio of two words, or 0 where it is below the threshold for certain."""
    matcher = difflib.SequenceMatcher(None, word, partner)
    # These two are upper bounds of the ratio and much faster.
    if matcher.real_quick_ratio() < THRESHOLD or matcher.quick_ratio() < THRESHOLD:
        return 0.0
    return matcher.ratio()
