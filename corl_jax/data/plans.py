"""Plans of pictures: how a policy is asked for one, and the prompt that draws behind it.

As in T2I-R1 (arXiv 2505.00703): the plan is written to a request of its own, and the picture is drawn
to a new prompt, ``prompt. plan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from corl_jax.core.checks.json_reader import is_text
from corl_jax.core.types import Prompts
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad

PLACEHOLDER = "{prompt}"
AUTO = "auto"

PLAN_TEMPLATES = {
    # The words of the embedded world; a plan is a list such as its answers begin with.
    "objects": "list all objects: {prompt}.",
    "instruct": (
        "Someone wants a picture of this: {prompt}\n"
        "Before you draw it, describe the finished picture in at most 50 words. Name every object "
        "that was asked for, how many there are of each, what they look like, and where they are "
        "relative to each other. Do not add anything that was not asked for."
    ),
}
"""Templates by name."""


class PlanTemplateName:
    """A bound of a config value: a name in ``PLAN_TEMPLATES``, ``auto``, or a text with ``{prompt}``."""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return value == AUTO or value in PLAN_TEMPLATES or (is_text(value) and PLACEHOLDER in value)

    def __str__(self) -> str:
        return f"one of {AUTO}, {', '.join(PLAN_TEMPLATES)}, or a text with {PLACEHOLDER}"


@dataclasses.dataclass(frozen=True)
class Plans:
    """How plans are asked for.

    Attributes:
      length: most tokens of a plan.
      template: of the request, see ``PlanTemplateName``.
    """

    length: int
    template: str = AUTO

    def request_ids(self, tokenizer: TextTokenizer, prompt: str) -> list[int]:
        """Ids that ask for a plan of ``prompt``; the next token is its first.

        Raises:
          UserError: ``prompt`` is empty, or has special tokens or unknown words.
        """
        return tokenizer.content_prompt(plan_request(self.template, prompt, tokenizer), 0, 0)

    def requests(self, tokenizer: TextTokenizer, prompts: Sequence[str]) -> Prompts:
        """Requests for plans on the host, ``B`` rows."""
        rows = [self.request_ids(tokenizer, prompt) for prompt in prompts]
        return Prompts(*left_pad(rows, tokenizer.pad_id))


def plan_openings(
    tokenizer: TextTokenizer, prompts: Sequence[str], width: int | None = None
) -> Prompts:
    """Prompts for images up to their plans on the host, with room for what follows a plan.

    Args:
      width: that they are padded to; None for the next multiple of 8.
    """
    rows = [tokenizer.plan_opening(prompt) for prompt in prompts]
    if width is None:
        longest = max(map(len, rows)) + len(tokenizer.plan_ending)
        width = -(-longest // 8) * 8
    return Prompts(*left_pad(rows, tokenizer.pad_id, length=width))


def plan_request(template: str, prompt: str, tokenizer: TextTokenizer) -> str:
    """What a policy is asked when it is to plan a picture of ``prompt``.

    Args:
      template: see ``PlanTemplateName``; ``auto`` is ``objects`` where the tokenizer has a fixed list
        of words, as in the embedded world, else ``instruct``.
    """
    if template == AUTO:
        template = "objects" if tokenizer.has_fixed_words else "instruct"
    # Braces elsewhere in the text, or in the prompt, are ordinary characters.
    text = PLAN_TEMPLATES.get(template, template)
    return text.replace(PLACEHOLDER, prompt.strip().rstrip("."))
