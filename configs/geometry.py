"""OThink-MR1's geometry: a KL coefficient that starts low and falls to 0 (a hard task).

    python -m corl_jax.main --config=configs/geometry.py                 the embedded world: relations
    python -m corl_jax.main --config=configs/geometry.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes 3 minutes on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected of the embedded world, held out: right and well-formed answers 36 % -> 53 %. That is the
format; the answers themselves are yes or no, and stay near a coin toss (47 % -> 51 % greedy).

The coefficient falls from 0.01 to 0 over three tenths of the steps, then rises to 0.02; 8 answers
each. At full size two epochs of 8,000 records, as in R1-V, with answers compared as formulas (pip
install corl_jax[math]).
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified

SAMPLES = 8_000


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.othink(c, "relation", beta=(0.0, 0.02))
    if c.model.size != "tiny":
        c.steps = 2 * SAMPLES // c.rl.rollout.text_prompts
        c.rewards.text = ml_collections.ConfigDict({"symbolic": 1.0, "format": 1.0})
        c.data.source = "geoqa"
        c.evals.num_records = 64  # about 80 are held out
    return c
