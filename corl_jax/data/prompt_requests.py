"""Templates of what is asked about a prompt beside the picture of it: a plan, or a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from corl_jax.core.checks.json_reader import is_text
from corl_jax.data.text_tokenizer import TextTokenizer

PLACEHOLDER = "{prompt}"
AUTO = "auto"
"""The template ``objects`` where a tokenizer has a fixed list of words, as in the embedded world, else
``instruct``."""

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
"""Requests for plans by name."""

CHECK_TEMPLATES = {
    "objects": "is there {prompt}?",
    "instruct": (
        "This picture was drawn for the request: {prompt}\n"
        "Does it show all that was asked for, and nothing that contradicts it? Think about it first, "
        "inside <think> </think> tags, then write yes or no alone inside <answer> </answer> tags."
    ),
}
"""Questions whether a picture matches its prompt, by name."""


@dataclasses.dataclass(frozen=True)
class RequestTemplateName:
    """A bound of a config value: a name in ``templates``, ``auto``, or a text with ``{prompt}``."""

    templates: Mapping[str, str]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return value == AUTO or value in self.templates or (is_text(value) and PLACEHOLDER in value)

    def __str__(self) -> str:
        return f"one of {AUTO}, {', '.join(self.templates)}, or a text with {PLACEHOLDER}"


def fill_in_prompt(
    templates: Mapping[str, str], template: str, prompt: str, tokenizer: TextTokenizer
) -> str:
    """What a policy is asked about ``prompt``.

    Args:
      templates: by name.
      template: see ``RequestTemplateName``.
      tokenizer: of the policy.
    """
    if template == AUTO:
        template = "objects" if tokenizer.has_fixed_words else "instruct"
    # Braces elsewhere in the text, or in the prompt, are ordinary characters.
    text = templates.get(template, template)
    return text.replace(PLACEHOLDER, prompt.strip().rstrip("."))
