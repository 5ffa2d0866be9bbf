"""What is put around an answer and is not part of it: marks, boxes, brackets, announcements."""

from __future__ import annotations

import re

MAX_LENGTH = 1000
"""Characters of the longest text that is unwrapped; longer ones are no short answer."""
BRACKETS = {"(": ")", "[": "]", "{": "}"}
MARKS = ("**", "```", "$$", "*", "`", "$", '"', "'")
"""Marks that are the same on both sides of what they enclose; longer ones come first."""
FORMULA_MARKS = ((r"\(", r"\)"), (r"\[", r"\]"))
# \boxed{B}, \text{B}
COMMAND = re.compile(r"\\(?:boxed|fbox|text|mbox|textbf|textit|textrm|mathrm|mathbf)\s*(?=\{)")
# Punctuation behind the end of a wrapper: "**B**."
TRAILING_MARKS = re.compile(r"(?<=[*`$\"')\]}])[.,;:]+$")
# "- red", but not "- 3"
BULLET = re.compile(r"^[-*•]\s+(?=[^\W\d_])")
# **words** inside a text, but not 2**3**2
EMPHASIS = re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*]+)(?<=\S)\*\*(?!\*)")
# What a list of words has: a comma and words of two letters or more.
WORD = re.compile(r"[^\W\d_]{2}")

# "the correct answer is", "Option", "so the final answer: option", "I choose", "it is".
ANNOUNCEMENT = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?"
    r"(?:(?:the |my )?(?:(?:correct|right|best|final) )*(?:answer|option|choice)"
    r"(?: is| should be| would be| must be)?|i (?:think|believe|choose|pick|select)|it is|it's)"
    r"(?: ?[:=]+ ?| )(?:(?:it is|it's|option|choice|letter) )?",
    re.I,
)


def unwrap(text: str) -> str:
    r"""A canonical text without bullets, emphasis, quotes, boxes and brackets around all of it.

    ``**B**``, ``"B"``, ``\boxed{B}``, ``$B$``, ``(B).`` and ``- B`` all become ``B``. Brackets
    around several numbers or variables stay: they may be a point, a set or an interval.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        return text

    # From the outside inwards, until nothing is around the text any more.
    previous = None
    while text != previous:
        previous = text
        text = BULLET.sub("", TRAILING_MARKS.sub("", text))
        text = _without_pair(EMPHASIS.sub(r"\1", text)).strip()
    return text


def strip_announcement(text: str) -> str:
    """A canonical text without ``the answer is``, ``I choose`` and the like before it, unwrapped.

    A text that is nothing else stays.
    """
    match = ANNOUNCEMENT.match(text)
    return unwrap(text[match.end() :]) or text if match else text


def _without_pair(text: str) -> str:
    """The text without the outermost pair of marks, if a pair encloses all of it."""
    for mark in MARKS:
        if text.startswith(mark) and text.endswith(mark) and len(text) > 2 * len(mark):
            content = text[len(mark) : -len(mark)]
            # Where the mark occurs inside, the outer two do not belong together.
            return text if mark in content else content

    for opening, closing in FORMULA_MARKS:
        if text.startswith(opening) and text.endswith(closing) and text.count(opening) == 1:
            return text[len(opening) : -len(closing)]

    # A command goes with its braces.
    command = COMMAND.match(text)
    start = command.end() if command else 0
    if text[start : start + 1] in BRACKETS and closing_bracket(text, start) == len(text) - 1:
        content = text[start + 1 : -1]
        if content.strip() and (command or not is_tuple(content)):
            return content
    return text


def closing_bracket(text: str, start: int) -> int | None:
    """The position of the bracket that closes the one at ``start``, or None."""
    opening = text[start]
    depth = 0
    for position in range(start, len(text)):
        if text[position] == opening:
            depth += 1
        elif text[position] == BRACKETS[opening]:
            depth -= 1
        if depth == 0:
            return position
    return None


def is_tuple(content: str) -> bool:
    """Whether brackets around ``content`` may mean something: ``(1, 2)`` is not ``[1, 2]``."""
    if "," not in content and ";" not in content:
        return False
    return WORD.search(content) is None or any(char.isdigit() for char in content)
