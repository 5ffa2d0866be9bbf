"""Which option an answer names, by the rules of VLMEvalKit without a judge.

Source: open-compass/VLMEvalKit, ``vlmeval/utils/matching_util.py`` at e8e78f0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NO_OPTION = "Z"
"""What stands for an answer that names none of the options."""

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
LAST_WORDS = 4
"""A single letter counts where it stands among so many last words."""

VERBOSE_ANSWER = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)


def named_option(answer: str, choices: Mapping[str, str]) -> str:
    """The letter of the option that ``answer`` names, ``NO_OPTION``, or "" where that is not clear.

    Args:
      answer: as the policy wrote it.
      choices: letter to text.
    """
    return _by_letter(answer, choices) or _by_text(answer, choices)


def _by_letter(answer: str, choices: Mapping[str, str]) -> str:
    if any(refusal in answer for refusal in REFUSALS):
        return NO_OPTION

    # The only letter of an option, as a word of its own.
    words = answer.translate(PUNCTUATION).split()
    letters = [letter for letter in choices if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - LAST_WORDS:
        return letters[0]
    if not letters and NO_OPTION in words:
        return NO_OPTION

    # "The correct answer is **B**. Here is why ..."
    match = VERBOSE_ANSWER.search(answer)
    letter = match[1].upper() if match else ""
    return letter if letter in choices else ""


def _by_text(answer: str, choices: Mapping[str, str]) -> str:
    """The only option whose text is part of an answer that is not much longer than all of them."""
    lowered = answer.lower()
    if len(lowered) > 2 * sum(len(text) for text in choices.values()):
        return ""
    letters = [letter for letter, text in choices.items() if text.lower() in lowered]
    return letters[0] if len(letters) == 1 else ""
