"""Documents: a scene in words, and many questions about it with their answers.

A language model that reads them learns to look answers up in a list of objects before it sees a
picture. One question per text does not teach that: its one telling token is lost among the others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.captions import list_objects
from corl_jax.data.shapes.questions import sample_question
from corl_jax.data.shapes.scene import Scene

THOUGHT = "<think> {thought} </think>"
QUESTION = "\n\n{question}"
ANSWER = "<answer> {answer} </answer>"


def write_document(
    scene: Scene, rng: np.random.Generator, encode: Callable[[str], list[int]], length: int
) -> tuple[list[int], list[bool]]:
    """Tokens of a document of ``scene``, and which of them can be known from those before.

    Args:
      scene: with at least one object.
      rng: samples the questions, as many as fit.
      encode: a text to its tokens.
      length: most tokens.

    Returns:
      tokens; and flags of the same length, true for the answers.

    Raises:
      UserError: no question fits, so that there would be nothing to imitate.
    """
    tokens = encode(THOUGHT.format(thought=list_objects(scene)))
    is_answer = [False] * len(tokens)
    while True:
        question = sample_question(scene, rng)
        asked = encode(QUESTION.format(question=question.text))
        answered = encode(ANSWER.format(answer=question.answer))
        longer = len(tokens) + len(asked) + len(answered)
        if longer > length and any(is_answer):
            return tokens, is_answer
        if longer > length:
            raise UserError(
                "config.sft.document_length must have room for a scene and a question, which have "
                f"{longer} tokens; got {length}. Several times as much is useful, so set for example "
                "128"
            )
        tokens += asked + answered
        is_answer += [False] * len(asked) + [True] * len(answered)
