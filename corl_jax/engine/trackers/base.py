"""The protocol of a tracker, which shows the curves of a run, and what every tracker is told of it.

A tracker is written by the first process alone. Its steps only ascend: ``collection.Trackers`` never
gives it one that it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker needs to begin, or to go on with the same curve.

    Attributes:
      folder: work directory.
      project: that the run is filed under.
      name: of the run, for people.
      id: of the run, the same at every start; no other run has it.
      config: of the run as JSON, for people; it names no folder of this machine.
      last_step: the newest step that this tracker was given at earlier starts; -1 for none.
    """

    folder: Path
    project: str
    name: str
    id: str
    config: Mapping[str, Any]
    last_step: int = -1


def as_code(text: str) -> str:
    """A text as Markdown that shows it as it is: four spaces begin a line of code."""
    return "".join(f"    {line}\n" for line in text.splitlines())


class Tracker(Protocol):
    """Shows steps: rows, images and texts.

    Attributes:
      last_step: the newest step that it has already; steps up to it are not written again.
      is_service: whether it may fail for reasons that are not the run's. Training then goes on
        without it.
    """

    last_step: int
    is_service: bool

    def rewind(self, steps_done: int) -> None:
        """Told before the first row: so many steps are done (-1: a new run), later ones come again."""
        ...

    def write(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Pixels],
        texts: Mapping[str, str],
    ) -> None:
        """Adds a step.

        Args:
          row: values, all of them finite, each for the curve of its name.
          images: by name.
          texts: by name; Markdown and HTML mean nothing in them.
        """
        ...

    def write_evaluation(self, side: str, step: int, metrics: Mapping[str, float]) -> None:
        """Shows what was measured on held-out records; ``side`` is ``before`` or ``after``."""
        ...

    def flush(self) -> None:
        """Brings what was written to where it is kept, as far as that can be waited for."""
        ...

    def close(self, is_complete: bool) -> None:
        """Ends; ``is_complete`` unless the run ends with an error."""
        ...
