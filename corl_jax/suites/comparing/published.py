"""Numbers of the CoRL paper, to be shown beside measured ones and never mixed with them.

Tables 1 (pictures) and 2 (questions, VLMEvalKit) of "Co-Reinforcement Learning for Unified
Multimodal Understanding and Generation" (arXiv 2505.17534), as the paper prints them.
"""

from __future__ import annotations

import dataclasses

MODELS = ("Janus-Pro-1.5B", "ULM-R1", "Janus-Pro-7B")
"""The base of the paper, what CoRL makes of it, and the next larger base."""


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One column of a table of the paper.

    Attributes:
      suite: name of the suite.
      part: of the suite; "" for the whole.
      values: by model, in the order of ``MODELS``, as printed.
      source: table of the paper.
      by_authors: models of others that the authors of the paper measured themselves; other values
        of such models are taken from their papers or boards.
    """

    suite: str
    part: str
    values: tuple[str, str, str]
    source: str
    by_authors: tuple[str, ...] = ()


_PICTURES, _QUESTIONS = "table 1", "table 2, VLMEvalKit"
_BASES = ("Janus-Pro-1.5B",)

PUBLISHED = (
    PublishedRow("geneval", "", ("0.73", "0.77", "0.80"), _PICTURES),
    PublishedRow("geneval", "two objects", ("0.82", "0.85", "0.89"), _PICTURES),
    PublishedRow("geneval", "counting", ("0.51", "0.71", "0.59"), _PICTURES),
    PublishedRow("geneval", "position", ("0.65", "0.68", "0.79"), _PICTURES),
    PublishedRow("geneval", "colour attribution", ("0.56", "0.80", "0.88"), _PICTURES),
    PublishedRow("wise", "", ("0.26", "0.33", "0.35"), _PICTURES),
    PublishedRow("dpg", "", ("82.63", "83.92", "84.19"), _PICTURES),
    PublishedRow("mmmu", "", ("36.3", "42.3", "41.0"), _QUESTIONS),
    PublishedRow("mmstar", "", ("43.1", "47.6", "46.5"), _QUESTIONS, _BASES),
    PublishedRow("wemath", "", ("5.9", "21.1", "9.7"), _QUESTIONS, _BASES),
    PublishedRow("mmvet", "", ("39.8", "43.9", "50.0"), _QUESTIONS),
    PublishedRow("pope", "", ("86.2", "88.9", "87.4"), _QUESTIONS),
    PublishedRow("logicvista", "", ("23.9", "34.5", "28.0"), _QUESTIONS, _BASES),
    PublishedRow("mathvista", "", ("37.3", "42.5", "42.5"), _QUESTIONS, _BASES),
    PublishedRow("mathverse", "vision", ("13.5", "25.4", "15.9"), _QUESTIONS, _BASES),
    PublishedRow("mathvision", "", ("13.4", "22.0", "14.7"), _QUESTIONS, _BASES),
)


def published_rows(suite: str) -> tuple[PublishedRow, ...]:
    """What the paper has of a suite; empty where it has nothing.

    Args:
      suite: its name, in upper or lower case.
    """
    return tuple(row for row in PUBLISHED if row.suite == suite.lower())
