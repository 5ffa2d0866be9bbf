"""Options of multiple choice: those that a question lists, and the one that an answer means."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from corl_jax.data.answers.characters import canonical_text
from corl_jax.data.answers.words import TextForms, text_forms
from corl_jax.data.answers.wrappers import strip_announcement, unwrap

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# "B", "(b)", "B.", "B,"
LETTER = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.,:;!?]*")
# "B. red", "(B) red", "B: red", "B - red", "B red"
LETTER_AND_TEXT = re.compile(r"[(\[]?([A-Za-z])(?:[)\].,:;=-]+ ?| (?:[:=-]+ ?)?)(\S.*)")
# "red (B)"
TEXT_AND_LETTER = re.compile(r"(.*\S) ?[(\[]([A-Za-z])[)\]][.,]*")
# "B is correct", "option B is the right answer."
CONFIRMED_LETTER = re.compile(
    r"(?:option |answer |choice )?[(\[]?([A-Za-z])[)\]]? is (?:the )?(?:correct|right|best)"
    r"(?: (?:answer|option|choice|one))?[.!]*",
    re.I,
)
HEADING = re.compile(r"\b(?:options|choices)\b ?:?", re.I)
MAX_HEADINGS = 10
"""Headings in one question behind which options are searched, from the last one back."""
MAX_LISTS = 10
"""Lines in one question that may be the first option, from the last one back."""
# An option on a line of its own: "A. red", "A) red", "(A) red", "A: red", "**A.** red", "- A. red".
# Without a space behind the letter it is a capital, and not that of "A.M. or P.M.".
OPTION_LINE = re.compile(
    r"^(?:[-*•] )?(?:\*\*)?[(\[]?([A-Za-z](?=[)\].:*]+ )|[A-Z](?![)\].:*]+[A-Za-z]\.))"
    r"[)\].:]+(?:\*\*)?:? ?(\S.*)$",
    re.M,
)
# Options in one line: "(A) red (B) green", "A. red B. green".
OPTION_IN_LINE = re.compile(
    r"(?<!\S)[(\[]?([A-Za-z])[)\].:]+ (\S.*?)(?=[,;]? [(\[]?[A-Za-z][)\].:]+ |$)", re.M
)


def list_options(question: str) -> tuple[str, ...]:
    """Texts of the options A, B, ... that a question lists, in order; empty if it lists none.

    They are read behind the last ``Options:`` or ``Choices:`` that is followed by some, or from
    the whole question if there are none behind such a heading. Lines between them that are no
    options, or not the next one, are skipped.
    """
    # Single spaces and no empty lines, so that no pattern spends a long time on white space.
    lines = [" ".join(line.split()) for line in canonical_text(question).split("\n")]
    question = "\n".join(filter(None, lines))

    starts = [match.end() for match in HEADING.finditer(question)][-MAX_HEADINGS:]
    for start in [*reversed(starts), 0]:
        for pattern in (OPTION_LINE, OPTION_IN_LINE):
            options = _in_order(pattern.findall(question[start:].lstrip()))
            if len(options) > 1:
                return options
    return ()


def _in_order(matches: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The texts of A, B, ..., each behind the one before: the longest such list, or the last."""
    lists: list[list[str]] = []
    for letter, text in matches:
        # A line that looks like an option A may only be a sentence before them.
        if letter.upper() == "A":
            lists = [*lists[-MAX_LISTS + 1 :], []]
        for options in lists:
            if len(options) < len(LETTERS) and letter.upper() == LETTERS[len(options)]:
                options.append(text)
    longest: list[str] = max(reversed(lists), key=len, default=[])
    return tuple(longest)


def extract_option(answer: str, choices: Sequence[str]) -> str | None:
    r"""The letter that an answer to a multiple-choice question means, or None.

    These forms are read, with or without emphasis, quotes, brackets or a box around them: a letter
    (``B``, ``(b)``, ``B,``); a letter with the text of its option (``B. red``, ``red (B)``); the
    text of one option; and each of them behind an announcement (``the answer is B. red``, ``Option
    B: red``). Nothing of the answer may be left over: a letter inside prose, such as the article
    ``a``, does not count, and neither do two letters.

    Args:
      answer: the answer without tags.
      choices: texts of the options A, B, ...; if empty, any letter counts and texts do not.
    """
    # Single spaces, so that no pattern below can spend a long time on white space.
    text = " ".join(canonical_text(answer).split())
    text = unwrap(text)
    letters = LETTERS[: len(choices)] if choices else LETTERS

    letter = _read_option(text, choices, letters)
    if letter is None and (match := CONFIRMED_LETTER.fullmatch(text)):
        letter = match[1].upper()
    if letter is None:
        letter = _read_option(strip_announcement(text), choices, letters)
    return letter if letter and letter in letters else None


def _read_option(text: str, choices: Sequence[str], letters: str) -> str | None:
    """The letter that ``text`` is, or whose option it is, or both."""
    match = LETTER.fullmatch(text)
    if match and match[1].upper() in letters:
        return match[1].upper()

    # A letter and the text of the same option, in either order.
    options = [_option_forms(choice) for choice in choices[: len(LETTERS)]]
    for pattern, letter_group, text_group in ((LETTER_AND_TEXT, 1, 2), (TEXT_AND_LETTER, 2, 1)):
        match = pattern.fullmatch(text)
        letter = match[letter_group].upper() if match else ""
        if not options or not match or letter not in letters:
            continue
        if text_forms(match[text_group]).same_as(options[letters.index(letter)]):
            return letter

    # The text of exactly one option: as it is written, or else in other words.
    forms = text_forms(text)
    alike = [option.exact == forms.exact for option in options]
    if not any(alike):
        alike = [forms.same_as(option) for option in options]
    return letters[alike.index(True)] if alike.count(True) == 1 else None


@functools.lru_cache(maxsize=1024)
def _option_forms(choice: str) -> TextForms:
    """``text_forms`` of an option, which many answers are compared with."""
    return text_forms(choice)
