"""Plans of pictures: how a policy is asked for one, and the prompt that draws behind it.

As in T2I-R1 (arXiv 2505.00703): the plan is written to a request of its own, and the picture is drawn
to a new prompt, ``prompt. plan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from corl_jax.core.types import Prompts
from corl_jax.data.prompt_requests import AUTO, PLAN_TEMPLATES, fill_in_prompt
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad


@dataclasses.dataclass(frozen=True)
class Plans:
    """How plans are asked for.

    Attributes:
      length: most tokens of a plan.
      template: of the request, see ``data.prompt_requests``.
    """

    length: int
    template: str = AUTO

    def request_ids(self, tokenizer: TextTokenizer, prompt: str) -> list[int]:
        """Ids that ask for a plan of ``prompt``; the next token is its first.

        Raises:
          UserError: ``prompt`` is empty, or has special tokens or unknown words.
        """
        request = fill_in_prompt(PLAN_TEMPLATES, self.template, prompt, tokenizer)
        return tokenizer.content_prompt(request, 0, 0)

    def requests(self, tokenizer: TextTokenizer, prompts: Sequence[str]) -> Prompts:
        """Requests for plans on the host, ``B`` rows."""
        rows = [self.request_ids(tokenizer, prompt) for prompt in prompts]
        return Prompts(*left_pad(rows, tokenizer.pad_id))


def plan_openings(tokenizer: TextTokenizer, prompts: Sequence[str]) -> Prompts:
    """Prompts for images up to their plans on the host, with room for what follows a plan."""
    rows = [tokenizer.plan_opening(prompt) for prompt in prompts]
    return Prompts(*left_pad(rows, tokenizer.pad_id, length=opening_width(rows, tokenizer)))


def opening_width(rows: Sequence[Sequence[int]], tokenizer: TextTokenizer) -> int:
    """The multiple of 8 that holds the longest opening and what follows a plan."""
    longest = max(map(len, rows)) + len(tokenizer.plan_ending)
    return -(-longest // 8) * 8
