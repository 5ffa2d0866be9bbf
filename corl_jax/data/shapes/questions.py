"""Questions about scenes and their answers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

from corl_jax.data.shapes.captions import NUMBERS, RELATIONS, Look, article, relation_holds
from corl_jax.data.shapes.scene import COLOURS, SHAPES, Scene

KINDS = ("count", "colour", "shape", "existence", "relation")
OPTIONS = 3
"""Options of a multiple choice question."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
      text: the question; the options of multiple choice are below it, one per line.
      answer: one lower-case word, or the letter of an option.
      qa_type: ``"MC"`` or ``"OE"``.
      choices: the texts of the options, empty for ``"OE"``.
      kind: one of ``KINDS``.
    """

    text: str
    answer: str
    qa_type: Literal["MC", "OE"]
    choices: tuple[str, ...]
    kind: str


def sample_question(scene: Scene, rng: np.random.Generator) -> Question:
    """A random question about ``scene``, of a kind that has exactly one answer for it.

    Half of the count, colour and shape questions are multiple choice with three options.
    """
    # Some kinds need an object that the question can single out; then another kind is sampled.
    kind = KINDS[rng.integers(len(KINDS))]
    question = _SAMPLERS[kind](scene, rng)
    while question is None:
        kind = KINDS[rng.integers(len(KINDS))]
        question = _SAMPLERS[kind](scene, rng)

    # Yes or no questions have no further options.
    text, answer = question
    if kind not in _ANSWER_WORDS or rng.random() < 0.5:
        return Question(text, answer, "OE", (), kind)

    # Multiple choice: the answer and random wrong words of its kind, in random order.
    wrong_words = [word for word in _ANSWER_WORDS[kind] if word != answer]
    distractors = [wrong_words[i] for i in rng.permutation(len(wrong_words))[: OPTIONS - 1]]
    option_words = [answer, *distractors]
    choices = tuple(option_words[i] for i in rng.permutation(OPTIONS))

    # The options follow the question, and the answer becomes a letter.
    letters = "ABC"
    options = "".join(
        f"\n{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)
    )
    return Question(text + options, letters[choices.index(answer)], "MC", choices, kind)


def _count_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Samples the answer first, of the numbers that occur, then the form, then the question."""
    # How many objects fit every noun phrase; a Counter gives 0 for phrases that none fits.
    counts: collections.Counter[str] = collections.Counter()
    for colour, shape in scene.looks:
        counts.update([f"{colour} {shape}s", f"{shape}s", f"{colour} objects", "objects"])

    # Phrases from the most to the least specific.
    forms = [
        [f"{colour} {shape}s" for colour in COLOURS for shape in SHAPES],
        [f"{shape}s" for shape in SHAPES],
        [f"{colour} objects" for colour in COLOURS],
        ["objects"],
    ]
    # The answer is sampled before the question, or most answers would be zero.
    answers = sorted({counts[phrase] for form in forms for phrase in form})
    answer = answers[rng.integers(len(answers))]

    # The phrases of each form that have this answer; forms without any are left out.
    fitting_forms = []
    for form in forms:
        phrases = [phrase for phrase in form if counts[phrase] == answer]
        if phrases:
            fitting_forms.append(phrases)
    phrases = fitting_forms[rng.integers(len(fitting_forms))]
    phrase = phrases[rng.integers(len(phrases))]
    return f"how many {phrase} are there?", NUMBERS[answer]


def _colour_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """About an object whose shape no other object has; None if there is no such object."""
    # "the circle" must mean exactly one object.
    counts = collections.Counter(shape.shape for shape in scene.objects)
    candidates = [shape for shape in scene.objects if counts[shape.shape] == 1]
    if not candidates:
        return None
    target = candidates[rng.integers(len(candidates))]
    return f"what colour is the {target.shape}?", target.colour


def _shape_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """About an object whose colour no other object has; None if there is no such object."""
    # "the red object" must mean exactly one object.
    counts = collections.Counter(shape.colour for shape in scene.objects)
    candidates = [shape for shape in scene.objects if counts[shape.colour] == 1]
    if not candidates:
        return None
    target = candidates[rng.integers(len(candidates))]
    return f"what shape is the {target.colour} object?", target.shape


def _existence_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Half yes, half no; half of the no share a colour or a shape with an object of the scene."""
    # Yes: a look of the scene. Sorted, since the order of a set is not reproducible.
    present = sorted(set(scene.looks))
    if rng.random() < 0.5:
        colour, shape = present[rng.integers(len(present))]
        return f"is there {article(colour)} {colour} {shape}?", "yes"

    # No: a look that the scene does not have.
    absent = [look for look in _all_looks() if look not in present]
    # Half of the time only near misses are candidates.
    if rng.random() < 0.5:
        absent = [look for look in absent if _shares_attribute(look, present)]
    colour, shape = absent[rng.integers(len(absent))]
    return f"is there {article(colour)} {colour} {shape}?", "no"


def _all_looks() -> list[Look]:
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]


def _shares_attribute(look: Look, present: Iterable[Look]) -> bool:
    """Whether some look in ``present`` has the colour or the shape of ``look``."""
    return any(look[0] == colour or look[1] == shape for colour, shape in present)


def _relation_question(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """Half yes, half no, about two objects whose looks are unique; None if there are not two."""
    # "the red circle" must mean exactly one object.
    counts = collections.Counter(scene.looks)
    candidates = [shape for shape in scene.objects if counts[shape.look] == 1]
    if len(candidates) < 2:
        return None

    first, second = (candidates[i] for i in rng.permutation(len(candidates))[:2])
    # The answer is sampled first, so that yes and no are balanced.
    is_true = bool(rng.random() < 0.5)
    names = [name for name in RELATIONS if relation_holds(name, first, second) == is_true]
    name = names[rng.integers(len(names))]
    text = f"is the {first.colour} {first.shape} {name} the {second.colour} {second.shape}?"
    return text, "yes" if is_true else "no"


_SAMPLERS = {
    "count": _count_question,
    "colour": _colour_question,
    "shape": _shape_question,
    "existence": _existence_question,
    "relation": _relation_question,
}
_ANSWER_WORDS = {"count": NUMBERS, "colour": tuple(COLOURS), "shape": SHAPES}
"""Words that answer a kind of question; kinds without them are always open ended."""
