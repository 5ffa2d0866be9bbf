"""What a record says is in its picture, and which of it a text states."""

from __future__ import annotations

import contextlib

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.answers.words import answer_words
from corl_jax.data.records import RewardMisfit, record_label
from corl_jax.data.shapes.captions import parse_caption
from corl_jax.rewards.parsing.boxes import read_boxes
from corl_jax.rewards.parsing.classes import class_set, normalize_class


def facts_of(record: Record, reward: str) -> frozenset[str]:
    """The objects that a picture shows, as ``classes.normalize_class`` spells them.

    They are the classes of ``class_answer``; or else the labels of ``box_answer``; or else the colour
    and shape of each object that a caption of the embedded world names, which are all of a scene.

    Args:
      reward: that needs them, for the error.

    Raises:
      RewardMisfit: the record has none of these.
    """
    if facts := class_set(record.class_answer):
        return facts
    if facts := frozenset(box.label for box in read_boxes(record.box_answer) or () if box.label):
        return facts
    with contextlib.suppress(UserError):
        looks = parse_caption(record.prompt).looks
        return frozenset(normalize_class(f"{colour} {shape}") for colour, shape in looks)
    raise RewardMisfit(
        f"{record_label(record)}: reward {reward!r} needs the objects of the picture, class_answer "
        "or box_answer with labels, which are absent. Add their column, or choose another reward"
    )


def stated(facts: frozenset[str], text: str) -> float:
    """The share of ``facts``, one or more, that a text names, each as words that follow each other.

    Singular and plural are the same, as in lists of classes.
    """
    words = [word for word in answer_words(text) if any(map(str.isalnum, word))]
    named = set()
    for length in {len(fact.split()) for fact in facts}:
        for start in range(len(words) - length + 1):
            named.add(normalize_class(" ".join(words[start : start + length])))
    return len(facts & named) / len(facts)


def repeated_share(text: str, length: int = 20) -> float:
    """The share of runs of ``length`` words that occurred before in a text, ``1 - unique / all``.

    Words are what spaces divide, in lower case. A text with fewer words repeats nothing.
    """
    words = text.lower().split()
    runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
