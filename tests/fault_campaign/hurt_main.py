"""``python -m corl_jax.main`` in which something goes wrong in the steps FIRST to LAST.

    python -m fault_campaign.hurt_main WAY FIRST LAST MARKER FLAGS...

``MARKER`` is a file that appears when it does.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from corl_jax import main
from corl_jax.core.types import PromptBatch, Record
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState
from corl_jax.stages.rl.stage import RlStage
from corl_jax.tasks.joint import JointPrompts


def break_gradients(steps: range, marker: Path) -> None:
    """Advantages of the first task are NaN in these steps, and so is every gradient."""
    batches = RlStage.batches

    def broken_batches(
        self: RlStage, state: TrainState, raw: Any, step: int
    ) -> Iterator[tuple[Any, HostMetrics]]:
        for batch, metrics in batches(self, state, raw, step):
            if step + 1 in steps:
                marker.touch()
                task = next(iter(batch))
                part = batch[task]
                advantages = part.advantages * float("nan")
                batch = {**batch, task: dataclasses.replace(part, advantages=advantages)}
            yield batch, metrics

    RlStage.batches = broken_batches  # type: ignore[method-assign]


def exhaust_memory(steps: range, marker: Path) -> None:
    """There is no memory for the prompts of these steps, which are made in a data thread."""
    make_prompts = JointPrompts.__call__

    def make_prompts_or_fail(
        self: JointPrompts, records: Sequence[Record], step: int
    ) -> Mapping[str, PromptBatch]:
        if step + 1 in steps:
            marker.touch()
            raise MemoryError("unable to allocate 8.00 GiB for a picture")
        return make_prompts(self, records, step)

    JointPrompts.__call__ = make_prompts_or_fail  # type: ignore[method-assign]


WAYS: dict[str, Callable[[range, Path], None]] = {
    "nan_gradient": break_gradients,
    "no_memory": exhaust_memory,
}

if __name__ == "__main__":
    way, first, last, marker, *flags = sys.argv[1:]
    WAYS[way](range(int(first), int(last) + 1), Path(marker))
    sys.exit(main.main(["main", *flags]))
