"""Verdicts of a policy on its own pictures: does the picture show what its caption asks for?"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.answers.reading import read_answer
from corl_jax.data.prompt_requests import CHECK_TEMPLATES, fill_in_prompt
from corl_jax.data.records import TASK_FIELDS, require
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import check_length, errors_name, pad_prompts, to_text_completions


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """Asks whether a picture matches the caption that it was drawn to; a part of the image task.

    Attributes:
      tokenizer: text tokenizer.
      template: of the question, see ``data.prompt_requests``.
      image_tokens: placeholders per picture (``S``).
      prompt_length: fixed width in tokens, or None for the next multiple of 8.
      length_key: what a config calls that width, for errors.
    """

    tokenizer: TextTokenizer
    template: str
    image_tokens: int
    prompt_length: int | None = None
    length_key: str = ""

    def prompt_ids(self, record: Record) -> list[int]:
        """Token ids of the question, with one placeholder per image token.

        Raises:
          UserError: the caption is empty, too long, or has special tokens or unknown words.
        """
        with errors_name(record):
            question = fill_in_prompt(CHECK_TEMPLATES, self.template, record.prompt, self.tokenizer)
            ids = self.tokenizer.question_prompt(question, self.image_tokens)
        check_length(ids, self.prompt_length, record, "question", self.length_key)
        return ids

    def check_record(self, record: Record) -> None:
        """Raises UserError about a record whose pictures cannot be asked about."""
        require(record, "the image task", TASK_FIELDS["image"])
        self.prompt_ids(record)

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """Questions whose pictures are not drawn yet."""
        rows = [self.prompt_ids(record) for record in records]
        return PromptBatch(pad_prompts(rows, self.tokenizer, self.prompt_length), tuple(records))

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """The verdicts of a rollout, up to the end token, with their records."""
        return to_text_completions(self.tokenizer, prompt_batch, rollout)


def read_verdict(text: str) -> bool | None:
    """Whether a verdict is yes; None where it is neither yes nor no.

    The answer in its tags counts, or the text where there are none, by its first word.
    """
    word = re.match(r"\W*(yes|no)\b", read_answer(text), re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"
