"""CoRL's Stage II for multiple choice: refines the unified policy on such questions alone.

    python -m corl_jax.main --config=configs/refined_mc.py                 the embedded world
    python -m corl_jax.main --config=configs/refined_mc.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes 100 seconds on 2 CPU cores (AMD EPYC, 2026-11-26).
`corl plan` tells what the full size needs.
Expected of the embedded world, held out: no gain. Right choices stay at chance, a third of three
options (34.8 % -> 33.0 %, with an error of 2.1), as the base never learned to name letters.

It starts from ``runs/unified``; ``config.init_from`` changes that. At full size: 32 questions of 16
samples, KL 0.02, learning rate 1e-6, 1024 and 512 tokens, one epoch of 66,000 records.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.refine(c, "text", records=66_000, source="mcot_r1_mcq_66k")
    c.data.qa_type = "MC"
    return c
