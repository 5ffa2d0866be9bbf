"""The form of a completion, and how many words two texts share."""

from __future__ import annotations

import collections
import re

from corl_jax.data.answers.words import normalize_answer

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TAG = re.compile("|".join(TAGS))
# Each tag may occur only once, so the text between two tags must not have any.
NO_TAGS = r"((?:(?!</?think>|</?answer>).)*)"
WELL_FORMED = re.compile(rf"<think>{NO_TAGS}</think>\s*<answer>{NO_TAGS}</answer>", re.S)


def well_formed(text: str, *, strict_whitespace: bool = False) -> bool:
    """Whether a text is one ``<think>..</think>`` and one ``<answer>..</answer>``, each tag once.

    Args:
      text: a whole completion.
      strict_whitespace: whether white space around the text makes it malformed, as in ULM-R1's
        code; otherwise it is stripped first.
    """
    return WELL_FORMED.fullmatch(text if strict_whitespace else text.strip()) is not None


def tags_once(text: str) -> float:
    """The fraction of the four tags that occur exactly once, in any order."""
    return sum(text.count(tag) == 1 for tag in TAGS) / len(TAGS)


def token_f1(candidate: str, reference: str, order: int = 2) -> float:
    """F1 of shared n-grams of words, averaged over ``n = 1 .. order``.

    The bigrams make swapped attributes cost something. Where a text is too short to have n-grams,
    that order counts 1 if both texts have the same words, otherwise 0.

    Args:
      candidate: a text.
      reference: the text to compare with.
      order: the longest n-grams.
    """
    candidate_words = normalize_answer(candidate).split()
    reference_words = normalize_answer(reference).split()
    if not candidate_words or not reference_words:
        return float(candidate_words == reference_words)

    # Counters intersect as multisets: a repeated n-gram is shared as often as both texts have it.
    f1_per_order = []
    for n in range(1, order + 1):
        candidate_ngrams = _count_ngrams(candidate_words, n)
        reference_ngrams = _count_ngrams(reference_words, n)
        if not candidate_ngrams or not reference_ngrams:
            f1_per_order.append(float(candidate_words == reference_words))
            continue

        shared = (candidate_ngrams & reference_ngrams).total()
        f1_per_order.append(2 * shared / (candidate_ngrams.total() + reference_ngrams.total()))
    return sum(f1_per_order) / len(f1_per_order)


def _count_ngrams(words: list[str], n: int) -> collections.Counter[tuple[str, ...]]:
    """How often each sequence of ``n`` words occurs."""
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
