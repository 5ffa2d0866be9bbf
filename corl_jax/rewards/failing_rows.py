"""Finds the completion at which a reward fails or hangs, by computing one after the other alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from corl_jax.core.errors import describe_error
from corl_jax.core.processes.ending import end_program
from corl_jax.core.time_limits import TimeIsUp, time_limit
from corl_jax.core.types import Completion
from corl_jax.data.records import record_label

SEARCH_SECONDS = 60.0
"""Longest search for one row."""

Compute = Callable[[Sequence[Completion]], object]
"""A reward without its context."""


class NotAlone(Exception):
    """A reward needs what all processes compute together, and only one process is computing it."""


def reward_time_limit(name: str, seconds: float) -> contextlib.AbstractContextManager[None]:
    """Limits a block that computes the reward ``name``, see ``core.time_limits.time_limit``."""
    stuck = (
        f"reward {name!r} took longer than {seconds:g} seconds, in code that Python cannot "
        "interrupt, so nothing was saved since the last checkpoint. Correct the reward, or set "
        "--config.rewards.options.timeout to more seconds, or to 0 for any time"
    )
    return time_limit(seconds, lambda: end_program(stuck))


def find_failing_row(name: str, compute: Compute, completions: Sequence[Completion]) -> str:
    """Row, record and error of the first completion that fails alone; "" where none does.

    Nor is there one where ``compute`` cannot run alone, or where the search takes too long.
    """
    with contextlib.suppress(TimeIsUp), reward_time_limit(name, SEARCH_SECONDS):
        for row, completion in enumerate(completions):
            try:
                compute([completion])
            except NotAlone:
                return ""
            except Exception as error:
                return f"row {row} ({record_label(completion.record)}): {describe_error(error)}"
    return ""


def find_slow_row(
    name: str, compute: Compute, completions: Sequence[Completion], seconds: float
) -> str:
    """Row and record of a completion that takes very long alone, or a text for all of them.

    Args:
      seconds: that all completions together were too slow for.
    """
    budget = min(seconds, SEARCH_SECONDS)
    label, started = "", time.monotonic()
    try:
        with reward_time_limit(name, budget):
            for row, completion in enumerate(completions):
                label = f"row {row} ({record_label(completion.record)})"
                started = time.monotonic()
                try:
                    compute([completion])
                except NotAlone:
                    break
                except Exception:
                    continue  # it fails, but it does not hang
    except TimeIsUp:
        # The last one may just have been next when many slow ones had used up the time.
        if time.monotonic() - started > budget / 2:
            return label
    return f"a batch of {len(completions)} completions"
