"""OThink-MR1's visual counting: few samples, and a KL coefficient that stays high (an easy task).

    python -m corl_jax.main --config=configs/counting.py                 the embedded world: how many
    python -m corl_jax.main --config=configs/counting.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes one minute on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected of the embedded world, held out: right and well-formed counts 27 % -> 44 %; greedy ones stay
at 45 %.

100 samples; the coefficient falls from 0.07 to 0.04 over three tenths of the steps, then rises to
0.1; 8 answers each. At full size two epochs, as in R1-V.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified

SAMPLES = 100


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.othink(c, "count", beta=(0.04, 0.1))
    c.data.limit = SAMPLES
    if c.model.size == "tiny":
        c.steps = 50
    else:
        c.steps = 2 * SAMPLES // c.rl.rollout.text_prompts
        c.rewards.text = ml_collections.ConfigDict({"numeric": 1.0, "format": 1.0})
        c.data.source = "clevr_counting"
    return c
