"""A policy as a model of VLMEvalKit, which has no plug-ins: docs/suites_harness.md registers it.

Interface: open-compass/VLMEvalKit at e8e78f0, ``vlmeval/vlm/base.py``. Questions are put as its own
Janus model puts them (``vlmeval/vlm/janus.py``, ``suites.prompts``).
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

from vlmeval.dataset import DATASET_TYPE
from vlmeval.vlm.base import BaseModel

from corl_jax.core.checks.config_block import PositiveInt, check_value
from corl_jax.data.answers.reading import extract_answer
from corl_jax.sampling.policy import Policy
from corl_jax.suites import prompts
from corl_jax.suites.harness.generation import GenerationOptions, generate_answers
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.questions.question import Question
from corl_jax.suites.requests import make_request

ANSWER_TOKENS = 2048
"""Longest answer, as VLMEvalKit's Janus has it."""

MMVET = "MMVet"


class CorlJax(BaseModel):
    """A policy whose answers VLMEvalKit scores; it has one question per call."""

    INSTALL_REQ = False
    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(
        self,
        policy: str,
        answer_tokens: int = ANSWER_TOKENS,
        plain_roles: bool = False,
        devices: int = 1,
        keep_tags: bool = False,
    ):
        """Loads the policy.

        Args:
          policy: ``tiny``, a Hugging Face folder or hub id, or a work directory.
          answer_tokens: longest answer.
          plain_roles: writes the roles as words, as VLMEvalKit's Janus does.
          devices: that share the policy.
          keep_tags: hands over all that the policy wrote; otherwise what is between the answer tags,
            if it wrote some, which the rules of VLMEvalKit do not know.

        Raises:
          UserError: a value out of range, or a policy that cannot be loaded.
        """
        super().__init__()
        check_value("answer_tokens", answer_tokens, PositiveInt)
        self._options = GenerationOptions(max_new_tokens=answer_tokens)
        self._plain_roles, self._keep_tags = plain_roles, keep_tags
        self._policy = Policy.load(policy, devices=devices)

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether ``build_prompt`` is for this data set, or it puts its questions itself."""
        return DATASET_TYPE(dataset) in ("Y/N", "MCQ") or dataset == MMVET

    def build_prompt(self, line: Mapping[str, Any], dataset: str) -> list[dict[str, str]]:
        """The pictures of a row, and its question behind them."""
        question = read_question(line)
        if dataset == MMVET:
            prompt = prompts.mmvet(question)
        elif DATASET_TYPE(dataset) == "MCQ":
            prompt = prompts.multiple_choice(question)
        else:
            # The request to answer yes or no is dropped from the questions of POPE alone.
            prompt = prompts.yes_no(question) if dataset == "POPE" else prompts.mme(question)
        pictures = self.dump_image(line, dataset)
        return [
            *({"type": "image", "value": picture} for picture in pictures),
            {"type": "text", "value": prompt.content},
        ]

    def generate_inner(
        self, message: Sequence[Mapping[str, str]], dataset: str | None = None
    ) -> str:
        """The greedy answer to one message.

        Pictures come first, then all texts, in their order.

        Raises:
          UserError: a text that the tokenizer refuses, one that is too long, or a picture that
            cannot be read.
        """
        pictures = [part["value"] for part in message if part["type"] == "image"]
        content = "".join(part["value"] for part in message if part["type"] == "text")
        system = prompts.MMVET_SYSTEM if dataset is not None and MMVET in dataset else ""
        request = make_request(
            self._policy,
            SuitePrompt(content, system),
            len(pictures),
            lambda: pictures,
            f"a question of {dataset}",
            self._plain_roles,
        )
        (answer,) = generate_answers(
            self._policy, [request], [self._options], 1, 0, lambda done: None
        )
        return answer if self._keep_tags else extract_answer(answer)


def read_question(line: Mapping[str, Any]) -> Question:
    """What a row of VLMEvalKit's table has for the prompts here."""
    choices = {
        letter: str(line[letter])
        for letter in string.ascii_uppercase
        if letter in line and not _is_empty(line[letter])
    }
    hint = "" if "hint" not in line or _is_empty(line["hint"]) else str(line["hint"])
    index = str(line["index"])
    return Question(
        id=index,
        cluster=index,
        text=str(line["question"]),
        choices=choices,
        hint=hint,
        answer="",
        category="",
        pictures=(),
        facts={},
        location=f"row {index}",
    )


def _is_empty(value: object) -> bool:
    """Whether a cell is empty, which is a number that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))
