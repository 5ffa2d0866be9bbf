"""The samples that a run keeps of a step, by their prompts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from corl_jax.engine.completions import SavedSample

MOST_GROUPS = 8
"""Groups of a task that are shown; a step at full size has more than fit on a page."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The samples of one prompt, in order."""

    prompt: str
    samples: tuple[SavedSample, ...]


def make_groups(samples: Sequence[SavedSample], task: str) -> list[Group]:
    """Samples of one task by their prompts, in the order of the file."""
    chosen = [sample for sample in samples if sample.task == task]
    # A record may come twice in a step, and then its samples are numbered anew.
    starts = itertools.accumulate(sample.sample == 0 for sample in chosen)
    keyed = zip(starts, chosen, strict=True)
    groups = []
    for _, members in itertools.groupby(keyed, lambda pair: (pair[0], pair[1].record_id)):
        group = tuple(sample for _, sample in members)
        groups.append(Group(group[0].prompt, group))
    return groups
