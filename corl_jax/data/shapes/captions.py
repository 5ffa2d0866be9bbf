"""Captions of scenes: their grammar, what they request, and whether an image satisfies them.

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
from corl_jax.data.shapes.parser import ParsedImage
from corl_jax.data.shapes.scene import COLOURS, SHAPES, Scene, Shape

Look = tuple[str, str]
"""``(colour, shape)``."""

NUMBERS = ("zero", "one", "two", "three")
RELATIONS = ("left of", "right of", "above", "below")
RELATION_PROBABILITY = 0.48
"""Of a relation in a scene of two objects that differ; about 23 % of all captions have one."""


class Group(NamedTuple):
    """``number`` objects of one colour and shape."""

    number: int
    colour: str
    shape: str

    @property
    def look(self) -> Look:
        return self.colour, self.shape


class Relation(NamedTuple):
    """``first`` is ``name`` (one of ``RELATIONS``) ``second``."""

    first: Look
    name: str
    second: Look


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a caption requests: exactly these objects (``groups``, sorted), maybe in a relation."""

    groups: tuple[Group, ...]
    relation: Relation | None = None

    @property
    def looks(self) -> list[Look]:
        """``(colour, shape)`` of every requested object."""
        return [group.look for group in self.groups for _ in range(group.number)]


def group_looks(looks: Sequence[Look]) -> tuple[Group, ...]:
    """Counts equal looks: the sorted groups of a list of objects."""
    return tuple(sorted(Group(count, *look) for look, count in collections.Counter(looks).items()))


def relation_holds(name: str, first: Shape, second: Shape) -> bool:
    """Whether ``first`` is ``name`` ``second``: columns for left and right, rows for the others."""
    return {
        "left of": first.col < second.col,
        "right of": first.col > second.col,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[name]


def sample_spec(scene: Scene, rng: np.random.Generator) -> Spec:
    """A true ``Spec`` of ``scene``: its groups, and sometimes the relation of its two objects."""
    groups = group_looks(scene.looks)

    # A relation needs two objects that differ, or the caption could not tell them apart.
    if len(scene.objects) != 2 or len(groups) != 2 or rng.random() >= RELATION_PROBABILITY:
        return Spec(groups)

    # Either object may come first; then one of the relations that hold between them.
    first, second = (scene.objects[i] for i in rng.permutation(2))
    true_names = [name for name in RELATIONS if relation_holds(name, first, second)]
    name = true_names[rng.integers(len(true_names))]
    return Spec(groups, Relation(first.look, name, second.look))


def write_caption(spec: Spec, rng: np.random.Generator | None = None) -> str:
    """``spec`` in words. Groups come in random order, without ``rng`` in sorted order."""
    # A relation names its two objects and nothing else.
    if spec.relation is not None:
        first, name, second = spec.relation
        return f"{_phrase(Group(1, *first))} {name} {_phrase(Group(1, *second))}"

    # Groups are joined by commas, the last one by "and".
    count = len(spec.groups)
    order = range(count) if rng is None else rng.permutation(count)
    phrases = [_phrase(spec.groups[i]) for i in order]
    return phrases[0] if count == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def sample_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of ``scene`` such as ``"two red circles and a blue square"``."""
    return write_caption(sample_spec(scene, rng), rng)


def canonical_caption(scene: Scene) -> str:
    """The caption with all groups in sorted order and no relation. It decides the data split.

    That of a scene without objects, which only an image of a policy can show, is empty.
    """
    if not scene.objects:
        return ""
    return write_caption(Spec(group_looks(scene.looks)))


def list_objects(scene: Scene) -> str:
    """Objects in raster order, e.g. ``"red circle, blue square"``: the tiny model's reasoning."""
    return ", ".join(f"{colour} {shape}" for colour, shape in scene.looks)


def parse_caption(text: str) -> Spec:
    """The exact inverse of ``write_caption``.

    Raises:
      UserError: the text is not of this grammar.
    """
    # A relation: two single objects.
    match = re.fullmatch(f"(.+) ({'|'.join(RELATIONS)}) (.+)", text)
    if match:
        first, second = (_parse_group(part, text) for part in match.group(1, 3))
        if first.number != 1 or second.number != 1 or first == second:
            raise UserError(
                f"caption {text!r}: a relation must have two different single objects, "
                "e.g. 'a red circle left of a blue square'. Rewrite it"
            )
        groups = tuple(sorted((first, second)))
        return Spec(groups, Relation(first.look, match.group(2), second.look))

    # Without a relation: a list of groups.
    head, conjunction, last = text.rpartition(" and ")
    parts = [*head.split(", "), last] if conjunction else [text]
    groups = tuple(sorted(_parse_group(part, text) for part in parts))
    if len({group.look for group in groups}) != len(groups):
        raise UserError(
            f"caption {text!r} names the same kind of object twice; write it once with its number"
        )
    return Spec(groups)


def satisfies(spec: Spec, parsed: ParsedImage) -> bool:
    """Whether an image shows exactly what ``spec`` requests: objects, relation, no stray ink."""
    return (
        parsed.clean
        and group_looks(parsed.scene.looks) == spec.groups
        and _satisfies_relation(spec, parsed.scene)
    )


def agreement(spec: Spec, parsed: ParsedImage) -> float:
    """How well an image fits ``spec``, in [0, 1]; 1 if and only if it satisfies it, ink aside.

    With ``match(f) = |multiset overlap of f| / max(objects requested, objects in the image)``::

        objects   = 0.1 * count + 0.15 * match(colour) + 0.15 * match(shape)
                    + 0.6 * match((colour, shape))
        count     = min(requested, in the image) / max(requested, in the image)
        agreement = objects                        without a relation
                  = objects * (0.6 + 0.4 * holds)  with one

    Swapped attributes score 0.4 (all colours and shapes are there, but in other pairs); a reversed
    relation scores 0.6.
    """
    requested = spec.looks
    parsed_looks = parsed.scene.looks
    larger_count = max(len(requested), len(parsed_looks))

    # The objects of both sides that can be paired, as a share of the larger side.
    def match(left: Sequence, right: Sequence) -> float:
        return (collections.Counter(left) & collections.Counter(right)).total() / larger_count

    colours = match([look[0] for look in requested], [look[0] for look in parsed_looks])
    shapes = match([look[1] for look in requested], [look[1] for look in parsed_looks])
    pairs = match(requested, parsed_looks)

    # Exactly 1.0 where all pairs match: the sum of the four parts could round to less.
    if pairs == 1:
        objects = 1.0
    else:
        count = min(len(requested), len(parsed_looks))
        objects = 0.1 * count / larger_count + 0.15 * colours + 0.15 * shapes + 0.6 * pairs
    return objects if _satisfies_relation(spec, parsed.scene) else 0.6 * objects


def _satisfies_relation(spec: Spec, scene: Scene) -> bool:
    """Whether the relation of ``spec`` holds between the only two objects that it can mean."""
    if spec.relation is None:
        return True

    # If a look occurs twice in the image, the relation is ambiguous and counts as false.
    first_look, name, second_look = spec.relation
    first = [shape for shape in scene.objects if shape.look == first_look]
    second = [shape for shape in scene.objects if shape.look == second_look]
    return len(first) == len(second) == 1 and relation_holds(name, first[0], second[0])


def article(word: str) -> str:
    """``"a"`` or ``"an"``."""
    return "an" if word[0] in "aeiou" else "a"


def _phrase(group: Group) -> str:
    """A group in words, e.g. ``"an orange square"`` or ``"two red circles"``."""
    # A single object has an article, several a number and a plural s.
    if group.number == 1:
        return f"{article(group.colour)} {group.colour} {group.shape}"
    return f"{NUMBERS[group.number]} {group.colour} {group.shape}s"


# The grammar has few phrases, so that parsing one is a look-up.
_GROUPS = [
    Group(number, colour, shape) for number in (1, 2, 3) for colour in COLOURS for shape in SHAPES
]
_GROUP_OF_PHRASE = {_phrase(group): group for group in _GROUPS}


def _parse_group(part: str, caption: str) -> Group:
    if part not in _GROUP_OF_PHRASE:
        raise UserError(
            f"caption {caption!r}: parts must be like 'a red circle' or 'two blue squares', with "
            f"the colours {', '.join(COLOURS)} and the shapes {', '.join(SHAPES)}; got {part!r}"
        )
    return _GROUP_OF_PHRASE[part]
