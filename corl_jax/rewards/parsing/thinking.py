"""The thinking in a completion."""

from __future__ import annotations

import re

from corl_jax.rewards.parsing.answers import NO_TAGS

THINKING = re.compile(rf"<think>{NO_TAGS}</think>", re.S)


def thinking(text: str) -> str | None:
    """What the first ``<think>..</think>`` of a completion has in it; None where there is none."""
    match = THINKING.search(text)
    return None if match is None else match[1]
