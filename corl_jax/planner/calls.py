"""A program that a phase runs. In: how to trace it; out: the trace, and how often a step runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """``trace`` gives the traced program, ``times`` is how often a step runs it."""

    trace: Callable[[], Any]
    times: int = 1
