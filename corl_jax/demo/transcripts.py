"""Answers to the questions of a run's evaluation, before and after training, for the page."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image
from corl_jax.demo.answering import AnswerParts, split_answer
from corl_jax.demo.rendering import thumbnail


@dataclasses.dataclass(frozen=True)
class GivenAnswer:
    """One answer: who gave it and how, its parts, and whether it is right."""

    label: str
    parts: AnswerParts
    right: bool


@dataclasses.dataclass(frozen=True)
class Transcript:
    """A question with its picture (uint8 ``[H, W, 3]``), its reference answer and its answers."""

    question: str
    kind: str
    reference: str
    picture: np.ndarray
    answers: tuple[GivenAnswer, ...]


def make_transcripts(sides: Mapping[str, Sequence[Mapping]]) -> list[Transcript]:
    """Questions with the answers of both sides.

    Args:
      sides: of ``report.run_files.read_transcripts``; both have the same questions in one order.

    Raises:
      UserError: a picture is damaged, or the sides differ in length.
    """
    if len({len(questions) for questions in sides.values()}) > 1:
        raise UserError(
            "samples/answers_before.json and answers_after.json must have the same questions; got "
            f"{' and '.join(str(len(questions)) for questions in sides.values())}; remove them"
        )

    transcripts = []
    for entries in zip(*sides.values(), strict=True):
        answers = tuple(
            GivenAnswer(
                f"{side}, {decoding}:",
                split_answer(entry[decoding]["text"]),
                entry[decoding]["right"],
            )
            for side, entry in zip(sides, entries, strict=True)
            for decoding in ("greedy", "sampled")
        )
        first = entries[0]
        picture = thumbnail(load_image(_decode(first["png"])))
        transcripts.append(
            Transcript(first["question"], first["kind"], first["reference"], picture, answers)
        )
    return transcripts


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UserError(
            f"a picture in samples/answers_*.json must be base64; got something else ({error}); "
            "remove the file"
        ) from None
