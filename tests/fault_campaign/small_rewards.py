"""The rewards of the runs that are hurt. One of them misbehaves in one step where that is ordered.

They are read by ``rewards.options.custom``, as a user's rewards are. Rounding hides one level of
one pixel, which several processes may compute differently.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext

VARIABLE = "CORL_MISBEHAVIOUR"
"""Environment variable with a ``Misbehaviour`` as JSON."""

SECONDS = 0.05
"""How long a reward takes, so that a random moment may fall between two saves too."""


@dataclasses.dataclass(frozen=True)
class Misbehaviour:
    """What a reward does wrong.

    Attributes:
      reward: name of the function below.
      way: a name in ``WAYS``.
      call: number of the call, from 1, in which it starts. Its last record then is the reason, and
        every later call with that record goes wrong too.
      marker: file that appears when it starts.
    """

    reward: str
    way: str
    call: int
    marker: str

    def to_json(self) -> str:
        """The value of ``VARIABLE``."""
        return json.dumps(dataclasses.asdict(self))


_campaign = os.getppid()


def _sleep() -> float:
    # Without its campaign a run that hangs would stay for ever.
    while os.getppid() == _campaign:
        time.sleep(60)
    return 0.0


def _spin() -> float:
    while os.getppid() == _campaign:
        pass
    return 0.0


def _raise() -> float:
    raise ZeroDivisionError("the reward cannot\ncompute this record")


WAYS: dict[str, Callable[[], float]] = {
    "nan": lambda: float("nan"),
    "huge": lambda: 1e39,
    "sleep": _sleep,
    "spin": _spin,
    "raise": _raise,
}
"""Ways to misbehave: functions that return the reward of the record, or do not return."""

_calls: collections.Counter[str] = collections.Counter()
_record_ids: list[str] = []


def redness(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Mean of the red channel of each image, rounded to hundredths."""
    values = [round(completion.pixels[..., 0].mean() / 255, 2) for completion in completions]
    return _misbehave("redness", completions, np.array(values))


def letters(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Tens of letters of each text."""
    values = [round(len(completion.text) / 10) for completion in completions]
    return _misbehave("letters", completions, np.array(values, np.float64))


def _misbehave(name: str, completions: Sequence[Completion], values: np.ndarray) -> np.ndarray:
    """``values``, with that of the ordered record replaced from the ordered call on."""
    time.sleep(SECONDS)
    _calls[name] += 1
    if VARIABLE not in os.environ:
        return values
    order = Misbehaviour(**json.loads(os.environ[VARIABLE]))
    if order.reward != name:
        return values

    # The marker tells the campaign that the run is hurt now.
    if _calls[name] == order.call:
        _record_ids.append(completions[-1].record.id)
        Path(order.marker).touch()
    for row, completion in enumerate(completions):
        if completion.record.id in _record_ids:
            values[row] = WAYS[order.way]()
    return values
