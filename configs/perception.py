"""Perception-R1: answers that also state what the picture shows (arXiv 2506.07218, without its judge).

    python -m corl_jax.main --config=configs/perception.py                 the embedded world
    python -m corl_jax.main --config=configs/perception.py:janus_pro_1b    the paper's rewards

Hardware and time: in the embedded world as ``configs/separate_und.py``.
Expected of the embedded world: not measured.

The reward is that of the paper's code, ``.9 accuracy + .1 format + .7 perception + repetition``,
without a KL term. There a model lists the facts of a picture and another one judges which of them
an answer states; here they are the objects in the columns ``class_answer`` or ``box_answer``, or
those of a scene of the embedded world, and words are compared.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.perception(c)
    return c
