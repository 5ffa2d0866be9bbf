"""Parsing of answers: tags, the answer itself, multiple-choice options, and overlap of words."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from corl_jax.rewards.parsing.numbers import as_digits

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Each tag may occur only once, so the text between two tags must not have any.
NO_TAGS = r"((?:(?!</?think>|</?answer>).)*)"
WELL_FORMED = re.compile(rf"<think>{NO_TAGS}</think>\s*<answer>{NO_TAGS}</answer>", re.S)
ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.S)
ARTICLES = ("a", "an", "the")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# "B", "(b)", "B."
LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]*")
# "B. red", "(B) red"
LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])[)\].:]+ ?(.+)")
# "the correct answer is B", "Option: (b)."
ANNOUNCED_LETTER = re.compile(
    r"(?:the )?(?:correct )?(?:answer|option)(?: is)?(?: ?: ?| )[(\[]?([A-Za-z])[)\].]*", re.I
)


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


def extract_answer(text: str) -> str:
    """The stripped content of the last well-formed ``<answer>..</answer>``.

    Answers may have several lines. A text without the tags is itself the answer, so that a model
    that answers correctly without them is not marked wrong (see docs/decisions.md#answer-reading).
    """
    answers = ANSWER.findall(text)
    return (answers[-1] if answers else text).strip()


def normalize_answer(text: str) -> str:
    """Evens out differences between answers that mean the same.

    Lower case, number words as digits, single spaces, no outer punctuation, and no articles unless
    the text has nothing else.
    """
    # Keep signs that may belong to a number; every other punctuation mark separates words.
    spaced = re.sub(r"[^\w\s.%/+-]", " ", text.lower())
    # Dots stay inside numbers and go at the ends of words.
    words = [word.strip(".") for word in spaced.split()]
    words = [word for word in words if word]

    # "A" may be the whole answer, so articles go only if something is left.
    words_without_articles = [word for word in words if word not in ARTICLES]
    return " ".join(as_digits(words_without_articles or words))


def extract_option(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer to a multiple-choice question means, or None.

    Four forms are read, in this order: a letter alone, with or without brackets or a dot (``B``,
    ``(b)``, ``B.``); a letter before the text of its option (``B. red``); the text of an option
    alone; a letter that is announced as the answer (``the answer is B``). A letter inside prose,
    such as the article ``a``, does not count.

    Args:
      answer: the answer without tags.
      choices: texts of the options A, B, ...; if empty, any letter counts and texts do not.
    """
    letters = LETTERS[: len(choices)] if choices else LETTERS
    # Single spaces, so that no pattern below can spend a long time on white space.
    text = " ".join(answer.split())

    # A letter alone.
    match = LETTER.fullmatch(text)
    if match and match.group(1).upper() in letters:
        return match.group(1).upper()

    # A letter and the text of the same option.
    match = LETTER_AND_TEXT.fullmatch(text)
    if choices and match and match.group(1).upper() in letters:
        letter = match.group(1).upper()
        choice = choices[letters.index(letter)]
        if normalize_answer(match.group(2)) == normalize_answer(choice):
            return letter

    # The text of exactly one option.
    normalized = normalize_answer(text)
    matching_letters = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if normalize_answer(choice) == normalized
    ]
    if len(matching_letters) == 1:
        return matching_letters[0]

    # A letter that is announced.
    match = ANNOUNCED_LETTER.fullmatch(text)
    return match.group(1).upper() if match and match.group(1).upper() in letters else None


def is_correct(
    completion: str, reference_answer: str, qa_type: str, choices: Sequence[str] = ()
) -> bool:
    """Whether a completion answers its question correctly (see docs/decisions.md#answer-reading).

    Args:
      completion: a whole completion, with or without tags.
      reference_answer: bare or in ``<answer>`` tags; a letter for multiple choice.
      qa_type: ``MC`` compares the options that are meant. Anything else is an open question, whose
        answer must equal the reference answer once both are normalized.
      choices: texts of the options of a multiple-choice question.
    """
    answer = extract_answer(completion)
    expected = extract_answer(reference_answer)
    # The reference answer of multiple choice is a letter, perhaps written "(B)." or "b".
    if qa_type == "MC":
        return extract_option(answer, choices) == expected.strip(" .()").upper()
    return normalize_answer(answer) == normalize_answer(expected)


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
