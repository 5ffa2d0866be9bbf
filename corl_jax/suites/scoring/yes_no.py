"""Yes or no, by POPE's own rules and by VLMEvalKit's, and what is computed of them.

Sources: AoiDragon/POPE, ``evaluate.py``; open-compass/VLMEvalKit, ``vlmeval/dataset/utils/yorn.py``
and ``process_punctuation`` at e8e78f0.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

PUNCTUATION = (
    ";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",",
    "?", "!",
)  # fmt: skip
DIGIT_COMMA = re.compile(r"\d,\d")
LONELY_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
REPLACED_PERIODS = int(re.UNICODE)
"""VLMEvalKit passes a flag where Python takes the number of replacements, 32."""


def pope_answer(text: str) -> str:
    """``no`` if the first sentence has the word No, not or no, else ``yes``."""
    first_sentence = text.split(".")[0]
    words = first_sentence.replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def vlmevalkit_answer(text: str) -> str:
    """``yes`` or ``no`` where just one of these words is there, else ``unknown``."""
    words = set(_without_punctuation(text.lower()).split())
    named = [word for word in ("yes", "no") if word in words]
    return named[0] if len(named) == 1 else "unknown"


def _without_punctuation(text: str) -> str:
    """Punctuation becomes spaces, or nothing where it stands beside a space or a 1,000 is near."""
    result = text
    for mark in PUNCTUATION:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        removed = is_beside_space or DIGIT_COMMA.search(text) is not None
        result = result.replace(mark, "" if removed else " ")
    return LONELY_PERIOD.sub("", result, count=REPLACED_PERIODS)


@dataclasses.dataclass(frozen=True)
class YesNoCounts:
    """Answers ``yes`` and ``no`` to questions whose answer is ``yes`` or ``no``."""

    true_yes: int
    false_yes: int
    true_no: int
    false_no: int

    @classmethod
    def of(cls, answers: Sequence[str], references: Sequence[str]) -> YesNoCounts:
        """Counts; an answer other than ``yes`` counts as no."""
        pairs = [(a == "yes", r == "yes") for a, r in zip(answers, references, strict=True)]
        return cls(
            true_yes=pairs.count((True, True)),
            false_yes=pairs.count((True, False)),
            true_no=pairs.count((False, False)),
            false_no=pairs.count((False, True)),
        )

    @property
    def precision(self) -> float:
        """Of the answers that are yes; 0 where there are none."""
        return _ratio(self.true_yes, self.true_yes + self.false_yes)

    @property
    def recall(self) -> float:
        """Of the questions whose answer is yes; 0 where there are none."""
        return _ratio(self.true_yes, self.true_yes + self.false_no)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
