"""The table language: foreign tensor names and shapes to ours, and back.

A ``Rule`` pairs a pattern of foreign names with one of ours; ``{name}`` stands for a path segment that both share, and
``{layer}`` on the foreign side alone means that the layers are stacked along our first axis.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one array differs between the two sides; ``outward`` undoes ``inward``."""

    inward: Transform
    outward: Transform


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
"""torch ``[out, in]``, ours ``[in, out]``."""
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""torch ``[O, I, h, w]``, ours ``[h, w, I, O]``."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table: foreign pattern, our pattern, layout."""

    foreign: str
    ours: str
    layout: Layout = SAME

    @property
    def stacked(self) -> bool:
        """Whether many foreign tensors make one of ours."""
        return "{layer}" in self.foreign and "{layer}" not in self.ours


def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    body = "".join(f"(?P<{part}>[^./]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(body)


def foreign_names(path: str, rules: Sequence[Rule], depth_of: Callable[[str], int]) -> tuple[Rule, list[str]]:
    """The rule for one of our paths, and the foreign names it is made of, layer by layer.

    Args:
      path: one of our parameter paths.
      rules: the table.
      depth_of: number of layers of a stacked path.

    Raises:
      ValueError: no rule; the table is incomplete.
    """
    for rule in rules:
        found = _regex(rule.ours).fullmatch(path)
        if found:
            if not rule.stacked:
                return rule, [rule.foreign.format(**found.groupdict())]
            names = [rule.foreign.format(layer=i, **found.groupdict()) for i in range(depth_of(path))]
            return rule, names
    raise ValueError(f"no porting rule for our parameter {path!r}")


def check_names(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str) -> None:
    """One error that lists everything missing, extra or of another shape.

    Args:
      wanted: foreign name to the shape that the model needs.
      found: foreign name to the shape in the files.
      where: names the folder in the error.
    """
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    other = sorted(n for n in wanted.keys() & found.keys() if tuple(wanted[n]) != tuple(found[n]))
    problems = []
    if missing:
        problems.append(f"missing: {_some(missing)}")
    if extra:
        problems.append(f"not used: {_some(extra)}")
    if other:
        problems.append(f"of another shape: {_some(f'{n} {found[n]} instead of {wanted[n]}' for n in other)}")
    if problems:
        raise UserError(f"the weights in {where!r} do not fit its config.json ({'; '.join(problems)})")


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
