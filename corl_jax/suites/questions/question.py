"""A question of a benchmark, as all its layouts have it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from corl_jax.data.sources.pictures import Picture


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about one or more pictures.

    Attributes:
      id: unique in its file.
      cluster: questions about one picture, or steps of one problem, have the same.
      text: the question.
      choices: letter to text, in order; empty where the answer is free.
      hint: what is put before the question; "" for none.
      answer: the right answer, the letter where there are choices; "" where the file has none.
      category: for break-downs; "" for none.
      pictures: where they are, in the order in which the question counts them.
      facts: what else the rules of its suite read, by the name of the column.
      location: line and file, for errors.
    """

    id: str
    cluster: str
    text: str
    choices: Mapping[str, str]
    hint: str
    answer: str
    category: str
    pictures: tuple[Picture, ...]
    facts: Mapping[str, str]
    location: str
