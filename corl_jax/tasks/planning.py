"""Plans of pictures: from a caption to a text behind which the picture is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.plans import Plans
from corl_jax.data.records import TASK_FIELDS, require
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import check_length, errors_name, pad_prompts, to_text_completions


@dataclasses.dataclass(frozen=True)
class Planning:
    """Requests a plan of the picture of the record's caption; a part of the image task.

    Attributes:
      tokenizer: text tokenizer.
      plans: how they are asked for.
      prompt_length: fixed width in tokens, or None for the next multiple of 8.
      length_key: what a config calls that width, for errors.
    """

    tokenizer: TextTokenizer
    plans: Plans
    prompt_length: int | None = None
    length_key: str = ""

    def prompt_ids(self, record: Record) -> list[int]:
        """Token ids of the request.

        Raises:
          UserError: the caption is empty, too long, or has special tokens or unknown words.
        """
        with errors_name(record):
            ids = self.plans.request_ids(self.tokenizer, record.prompt)
        check_length(ids, self.prompt_length, record, "request for a plan", self.length_key)
        return ids

    def check_record(self, record: Record) -> None:
        """Raises UserError about a record that cannot be planned."""
        require(record, "the image task", TASK_FIELDS["image"])
        self.prompt_ids(record)

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """Requests without images."""
        rows = [self.prompt_ids(record) for record in records]
        return PromptBatch(pad_prompts(rows, self.tokenizer, self.prompt_length), tuple(records))

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """The plans of a rollout, up to the end token, with their records."""
        return to_text_completions(self.tokenizer, prompt_batch, rollout)
