"""Answers about a picture, with the thinking and the answer apart."""

from __future__ import annotations

import dataclasses
import re

from corl_jax.core.checks.config_block import PositiveInt, Seed, Weight, config_block
from corl_jax.data.answers.reading import ANSWER, extract_answer
from corl_jax.data.image_files import ImageInput
from corl_jax.sampling.policy import Policy

# A thought that the limit of the length cut ends where the answer begins, or nowhere.
THOUGHT = re.compile(r"<think>(.*?)(?:</think>|(?=<answer>)|\Z)", re.S)
TAG = re.compile(r"</?(?:think|answer)>")


@config_block
class Question:
    """What ``Policy.sample_answers`` gets besides a picture.

    Attributes:
      text: the question, with its options if any.
      temperature: 0 is greedy.
      seed: of sampling.
      max_tokens: longest answer.
    """

    text: str
    temperature: Weight = 0.0
    seed: Seed = 0
    max_tokens: PositiveInt = 64


@dataclasses.dataclass(frozen=True)
class AnswerParts:
    """A completion, read.

    Attributes:
      text: as it was written, with its tags.
      thinking: what is between the tags of thought; "" for none.
      answer: what rewards and evaluations read as the answer, or the text outside of thoughts where
        there is no tag of an answer.
      is_truncated: whether it was cut at the limit of its length.
    """

    text: str
    thinking: str
    answer: str
    is_truncated: bool


def split_answer(text: str, is_truncated: bool = False) -> AnswerParts:
    """Reads a completion."""
    thinking = "\n".join(thought.strip() for thought in THOUGHT.findall(text)).strip()
    rest = TAG.sub("", THOUGHT.sub("", text)).strip()
    answer = extract_answer(text) if ANSWER.search(text) else rest
    return AnswerParts(text, thinking, answer, is_truncated)


def answer(policy: Policy, picture: ImageInput, question: Question) -> AnswerParts:
    """Asks a policy.

    Raises:
      UserError: as ``Policy.sample_answers``.
    """
    written = policy.sample_answers(
        [picture],
        [question.text],
        temperature=question.temperature,
        seed=question.seed,
        max_tokens=question.max_tokens,
    )[0]
    return split_answer(written.text, written.is_truncated)
