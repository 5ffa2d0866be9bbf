"""Pure string reading: tags, answers, options, number words, overlap. In: strings; out: strings and verdicts."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from corl_jax.rewards.parsing.numbers import as_digits

INNER = r"((?:(?!</?think>|</?answer>).)*)"
WELL_FORMED = re.compile(rf"<think>{INNER}</think>\s*<answer>{INNER}</answer>", re.S)
ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.S)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ARTICLES = ("a", "an", "the")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def well_formed(text: str, *, strict_whitespace: bool = False) -> bool:
    """Whether the whole text is one ``<think>..</think>`` followed by one ``<answer>..</answer>``, each tag once.

    Outer whitespace is stripped first unless ``strict_whitespace`` (decisions 19).
    """
    return WELL_FORMED.fullmatch(text if strict_whitespace else text.strip()) is not None


def tags_once(text: str) -> float:
    """The share of the four tags that stand exactly once, in quarters; their order is not looked at."""
    return sum(text.count(tag) == 1 for tag in TAGS) / len(TAGS)


def extract_answer(text: str) -> str:
    """What stands inside the last well-formed ``<answer>``; without one, the whole text (decisions 20). Stripped."""
    found = ANSWER.findall(text)
    return (found[-1] if found else text).strip()


def normalise(text: str) -> str:
    """Lower case, number words as digits, no articles (unless they are all there is) or outer punctuation, single
    spaces."""
    words = [word.strip(".") for word in re.sub(r"[^\w\s.%/+-]", " ", text.lower()).split()]
    said = [word for word in words if word and word not in ARTICLES] or [
        word for word in words if word
    ]
    return " ".join(as_digits(said))


def option_of(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer to multiple choice means, or None.

    Read in this order: a lone letter with or without brackets or a dot (``B``, ``(b)``, ``B.``), a letter before the
    option's own text (``B. red``), the option's text alone, or a letter announced as the answer (``the answer is B``).
    A letter inside prose, such as the article ``a``, is no answer. Without ``choices`` any letter may be meant, and
    texts mean nothing.
    """
    letters = LETTERS[: len(choices)] if choices else LETTERS
    text = " ".join(answer.split())  # so that no pattern below can spend long on white space
    lone = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*", text)
    if lone and lone.group(1).upper() in letters:
        return lone.group(1).upper()
    lettered = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]+ ?(.+)", text)
    if choices and lettered and lettered.group(1).upper() in letters:
        letter = lettered.group(1).upper()
        if normalise(lettered.group(2)) == normalise(choices[letters.index(letter)]):
            return letter
    same = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if normalise(choice) == normalise(text)
    ]
    if len(same) == 1:
        return same[0]
    said = re.fullmatch(
        r"(?:the )?(?:correct )?(?:answer|option)(?: is)?(?: ?: ?| )[(\[]?([A-Za-z])[)\].]*",
        text,
        re.I,
    )
    return said.group(1).upper() if said and said.group(1).upper() in letters else None


def is_right(completion: str, reference: str, qa_type: str, choices: Sequence[str] = ()) -> bool:
    """Binary accuracy (decisions 18, 20): the option for multiple choice, exact match after normalisation otherwise."""
    answer = extract_answer(completion)
    if qa_type == "MC":
        return option_of(answer, choices) == extract_answer(reference).strip(" .()").upper()
    return normalise(answer) == normalise(extract_answer(reference))


def token_f1(candidate: str, reference: str, order: int = 2) -> float:
    """F1 of shared n-grams, averaged over ``n = 1 .. order``; bigrams make swapped attributes cost something.

    A text too short to have n-grams of an order counts that order as matched only if both are the same.
    """
    left, right = normalise(candidate).split(), normalise(reference).split()
    if not left or not right:
        return float(left == right)
    scores = []
    for n in range(1, order + 1):
        a = collections.Counter(tuple(left[i : i + n]) for i in range(len(left) - n + 1))
        b = collections.Counter(tuple(right[i : i + n]) for i in range(len(right) - n + 1))
        if not a or not b:
            scores.append(float(left == right))
            continue
        scores.append(2 * (a & b).total() / (a.total() + b.total()))
    return sum(scores) / len(scores)
