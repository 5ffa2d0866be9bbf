"""LMM-R1's first stage: RL of answers to questions about texts, before there are pictures.

    python -m corl_jax.main --config=configs/text_first.py                 the embedded world
    python -m corl_jax.main --config=configs/text_first.py:janus_pro_1b    captions of the data set

Hardware and time: the embedded world takes less than ``configs/separate_und.py``, whose prompts have
a picture. Expected: not measured. The shipped base was never asked about a text.

Questions have no picture (``rl.rollout.question_pictures=False``): the caption of a record tells
what there is, and the question follows. A data set of texts does as well, since records need no
picture then: ``--config.data.source=FILE --config.data.template=as_is``. There is no evaluation,
which would ask with the caption, too; ``configs/lmm_r1.py`` goes on with pictures and evaluates.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.texts_first(c)
    return c
