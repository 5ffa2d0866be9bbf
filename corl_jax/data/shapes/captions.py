"""Captions of scenes, their grammar and what they ask for. In: scenes and texts; out: texts, ``Spec``s, verdicts.

caption  = thing relation thing | group | group "and" group | group "," group "and" group
thing    = ("a" | "an") colour shape
group    = thing | ("two" | "three") colour shape "s"
relation = "left of" | "right of" | "above" | "below"
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.parser import Parsed
from corl_jax.data.shapes.scene import COLOURS, SHAPES, Scene, Shape

Look = tuple[str, str]
"""``(colour, shape)``."""

NUMBERS = ("zero", "one", "two", "three")
RELATIONS = ("left of", "right of", "above", "below")
RELATION_PROBABILITY = 0.48
"""Of two-object scenes with two different objects; about 23 % of all captions."""


class Group(NamedTuple):
    """``number`` objects of one colour and shape."""

    number: int
    colour: str
    shape: str

    @property
    def look(self) -> Look:
        return self.colour, self.shape


class Relation(NamedTuple):
    """``first`` lies ``name`` (one of ``RELATIONS``) ``second``."""

    first: Look
    name: str
    second: Look


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a caption asks: exactly these objects (``groups``, sorted), and the relation if there is one."""

    groups: tuple[Group, ...]
    relation: Relation | None = None

    @property
    def looks(self) -> list[Look]:
        """``(colour, shape)`` of every object asked for."""
        return [group.look for group in self.groups for _ in range(group.number)]


def group(looks: Sequence[Look]) -> tuple[Group, ...]:
    """Groups of a list of looks, sorted."""
    return tuple(sorted(Group(count, *look) for look, count in collections.Counter(looks).items()))


def holds(name: str, first: Shape, second: Shape) -> bool:
    """Whether ``first`` is ``name`` ``second``, by their columns (left, right) or rows (above, below)."""
    return {
        "left of": first.col < second.col,
        "right of": first.col > second.col,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[name]


def sample_spec(scene: Scene, rng: np.random.Generator) -> Spec:
    """A true ``Spec`` of ``scene``: its groups, sometimes with a relation between two different single objects."""
    groups = group(scene.looks)
    if len(scene.objects) != 2 or len(groups) != 2 or rng.random() >= RELATION_PROBABILITY:
        return Spec(groups)
    first, second = (scene.objects[i] for i in rng.permutation(2))
    true = [name for name in RELATIONS if holds(name, first, second)]
    return Spec(groups, Relation(first.look, true[rng.integers(len(true))], second.look))


def write(spec: Spec, rng: np.random.Generator | None = None) -> str:
    """``spec`` in words; groups in random order, or in sorted order without ``rng``."""
    if spec.relation is not None:
        first, name, second = spec.relation
        return f"{_phrase(Group(1, *first))} {name} {_phrase(Group(1, *second))}"
    groups = [
        _phrase(spec.groups[i])
        for i in (range(len(spec.groups)) if rng is None else rng.permutation(len(spec.groups)))
    ]
    return groups[0] if len(groups) == 1 else f"{', '.join(groups[:-1])} and {groups[-1]}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of ``scene`` such as ``"two red circles and a blue square"``."""
    return write(sample_spec(scene, rng), rng)


def describe(scene: Scene) -> str:
    """The canonical caption: all groups in sorted order, no relation. Data splits are made by it."""
    return write(Spec(group(scene.looks)))


def listing(scene: Scene) -> str:
    """The objects in raster order, e.g. ``"red circle, blue square"``; the text that the tiny model thinks in."""
    return ", ".join(f"{colour} {shape}" for colour, shape in scene.looks)


def parse_caption(text: str) -> Spec:
    """The exact inverse of ``write``.

    Raises:
      UserError: the text is not of this grammar.
    """
    related = re.fullmatch(f"(.+) ({'|'.join(RELATIONS)}) (.+)", text)
    if related:
        first, second = (_parse_group(part, text) for part in related.group(1, 3))
        if first.number != 1 or second.number != 1 or first == second:
            raise UserError(
                f"caption {text!r}: a relation needs two different single objects, "
                "e.g. 'a red circle left of a blue square'"
            )
        return Spec(
            tuple(sorted((first, second))), Relation(first.look, related.group(2), second.look)
        )
    head, joined, last = text.rpartition(" and ")
    parts = [*head.split(", "), last] if joined else [text]
    groups = tuple(sorted(_parse_group(part, text) for part in parts))
    if len({found.look for found in groups}) != len(groups):
        raise UserError(
            f"caption {text!r} names the same kind of object twice; write it once with its number"
        )
    return Spec(groups)


def satisfies(spec: Spec, parsed: Parsed) -> bool:
    """Whether the picture shows exactly what was asked: these objects and no other, the relation, and no stray ink."""
    return (
        parsed.clean
        and group(parsed.scene.looks) == spec.groups
        and _relation_holds(spec, parsed.scene)
    )


def agreement(spec: Spec, parsed: Parsed) -> float:
    """How well the picture fits, in [0, 1]; 1 exactly where ``satisfies`` holds, stray ink aside.

    With ``match(f) = |multiset overlap of f| / max(objects asked, objects found)``::

        objects   = 0.1 * count + 0.15 * match(colour) + 0.15 * match(shape) + 0.6 * match((colour, shape))
        count     = min(asked, found) / max(asked, found)
        agreement = objects                        without a relation
                  = objects * (0.6 + 0.4 * holds)  with one

    Swapped attributes keep 0.4 (all colours and shapes are there, no pair is); a reversed relation keeps 0.6.
    """
    asked, found = spec.looks, parsed.scene.looks
    most = max(len(asked), len(found))

    def match(left: Sequence, right: Sequence) -> float:
        return (collections.Counter(left) & collections.Counter(right)).total() / most

    colours = match([look[0] for look in asked], [look[0] for look in found])
    shapes = match([look[1] for look in asked], [look[1] for look in found])
    pairs = match(asked, found)
    if pairs == 1:
        objects = 1.0
    else:
        objects = (
            0.1 * min(len(asked), len(found)) / most + 0.15 * colours + 0.15 * shapes + 0.6 * pairs
        )
    return objects if _relation_holds(spec, parsed.scene) else 0.6 * objects


def _relation_holds(spec: Spec, scene: Scene) -> bool:
    if spec.relation is None:
        return True
    first, name, second = spec.relation
    firsts = [thing for thing in scene.objects if thing.look == first]
    seconds = [thing for thing in scene.objects if thing.look == second]
    return len(firsts) == len(seconds) == 1 and holds(name, firsts[0], seconds[0])


def article(word: str) -> str:
    """``"a"`` or ``"an"``."""
    return "an" if word[0] in "aeiou" else "a"


def _phrase(found: Group) -> str:
    if found.number == 1:
        return f"{article(found.colour)} {found.colour} {found.shape}"
    return f"{NUMBERS[found.number]} {found.colour} {found.shape}s"


_PHRASES = {
    _phrase(Group(n, colour, shape)): Group(n, colour, shape)
    for n in (1, 2, 3)
    for colour in COLOURS
    for shape in SHAPES
}


def _parse_group(part: str, text: str) -> Group:
    if part not in _PHRASES:
        raise UserError(
            f"caption {text!r}: cannot read {part!r}; expected e.g. 'a red circle' or 'two blue squares', "
            f"with the colours {', '.join(COLOURS)} and the shapes {', '.join(SHAPES)}"
        )
    return _PHRASES[part]
