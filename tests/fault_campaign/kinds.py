"""The registry of fault kinds: the shape of their runs, and the function that hurts one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fault_campaign.bench import ALONE, Shape
from fault_campaign.trial import Hurt


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to hurt a run.

    Attributes:
      name: of the kind.
      shapes: of its runs, which take turns.
      hurt: hurts one run; its docstring describes the kind.
    """

    name: str
    shapes: tuple[Shape, ...]
    hurt: Hurt


KINDS: dict[str, Kind] = {}
"""All kinds by name, in the order in which they were registered."""


def kind(*shapes: Shape) -> Callable[[Hurt], Hurt]:
    """Registers a function as the fault kind of its name, for runs of ``shapes``."""

    def register(hurt: Hurt) -> Hurt:
        KINDS[hurt.__name__] = Kind(hurt.__name__, shapes or (ALONE,), hurt)
        return hurt

    return register
