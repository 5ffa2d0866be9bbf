"""Questions about scenes and their answers. In: a scene and a generator; out: a ``Question``."""

from __future__ import annotations

import collections
import dataclasses
from typing import Literal

import numpy as np

from corl_jax.data.shapes.captions import NUMBERS, RELATIONS, article, holds
from corl_jax.data.shapes.scene import COLOURS, SHAPES, Scene

KINDS = ("count", "colour", "shape", "existence", "relation")
OPTIONS = 3


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its options written below it if it is multiple choice.

    Attributes:
      text: what is asked.
      answer: one lower-case word, or the option's letter.
      qa_type: ``"MC"`` or ``"OE"``.
      choices: the options' texts, empty for ``"OE"``.
      kind: one of ``KINDS``.
    """

    text: str
    answer: str
    qa_type: Literal["MC", "OE"]
    choices: tuple[str, ...]
    kind: str


def ask_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A random question about ``scene``, of a kind that has one answer there; half of the count, colour and shape
    questions are multiple choice with three options."""
    kind = KINDS[rng.integers(len(KINDS))]
    asked = _ASK[kind](scene, rng)
    while asked is None:
        kind = KINDS[rng.integers(len(KINDS))]
        asked = _ASK[kind](scene, rng)
    text, answer = asked
    if kind not in _ANSWERS or rng.random() < 0.5:
        return Question(text, answer, "OE", (), kind)
    others = [word for word in _ANSWERS[kind] if word != answer]
    picked = [answer, *(others[i] for i in rng.permutation(len(others))[: OPTIONS - 1])]
    choices = tuple(picked[i] for i in rng.permutation(OPTIONS))
    letters = "ABC"
    options = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)
    )
    return Question(text + options, letters[choices.index(answer)], "MC", choices, kind)


def _ask_count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Draws the answer first, of those that some question has, then the form and the question."""
    seen: collections.Counter[str] = collections.Counter()
    for colour, shape in scene.looks:
        seen.update([f"{colour} {shape}s", f"{shape}s", f"{colour} objects", "objects"])
    forms = [
        [f"{colour} {shape}s" for colour in COLOURS for shape in SHAPES],
        [f"{shape}s" for shape in SHAPES],
        [f"{colour} objects" for colour in COLOURS],
        ["objects"],
    ]
    answers = sorted({seen[thing] for form in forms for thing in form})
    answer = answers[rng.integers(len(answers))]
    fitting = [
        found for form in forms if (found := [thing for thing in form if seen[thing] == answer])
    ]
    form = fitting[rng.integers(len(fitting))]
    return f"how many {form[rng.integers(len(form))]} are there?", NUMBERS[answer]


def _ask_colour(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    counts = collections.Counter(thing.shape for thing in scene.objects)
    single = [thing for thing in scene.objects if counts[thing.shape] == 1]
    if not single:
        return None
    thing = single[rng.integers(len(single))]
    return f"what colour is the {thing.shape}?", thing.colour


def _ask_shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    counts = collections.Counter(thing.colour for thing in scene.objects)
    single = [thing for thing in scene.objects if counts[thing.colour] == 1]
    if not single:
        return None
    thing = single[rng.integers(len(single))]
    return f"what shape is the {thing.colour} object?", thing.shape


def _ask_existence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Half yes, half no; half of the no share a colour or a shape with what is there."""
    there = sorted(set(scene.looks))
    if rng.random() < 0.5:
        colour, shape = there[rng.integers(len(there))]
        return f"is there {article(colour)} {colour} {shape}?", "yes"
    absent = [
        (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in there
    ]
    if rng.random() < 0.5:
        absent = [
            look
            for look in absent
            if any(look[0] == seen[0] or look[1] == seen[1] for seen in there)
        ]
    colour, shape = absent[rng.integers(len(absent))]
    return f"is there {article(colour)} {colour} {shape}?", "no"


def _ask_relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Half yes, half no, about two objects of which there is one each."""
    counts = collections.Counter(scene.looks)
    single = [thing for thing in scene.objects if counts[thing.look] == 1]
    if len(single) < 2:
        return None
    first, second = (single[i] for i in rng.permutation(len(single))[:2])
    wanted = bool(rng.random() < 0.5)
    names = [name for name in RELATIONS if holds(name, first, second) == wanted]
    name = names[rng.integers(len(names))]
    text = f"is the {first.colour} {first.shape} {name} the {second.colour} {second.shape}?"
    return text, "yes" if wanted else "no"


_ASK = {
    "count": _ask_count,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "existence": _ask_existence,
    "relation": _ask_relation,
}
_ANSWERS = {"count": NUMBERS, "colour": tuple(COLOURS), "shape": SHAPES}
