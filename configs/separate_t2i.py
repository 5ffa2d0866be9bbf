"""CoRL's pilot study: RL of text-to-image alone, to compare with learning both tasks at once.

    python -m corl_jax.main --config=configs/separate_t2i.py                 the embedded world
    python -m corl_jax.main --config=configs/separate_t2i.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes 3 to 4 minutes on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected of the embedded world, held out: images that show what was asked 31 % -> 47 % at guidance 1.5
(the unified run: 44 %), and answers as before.

Values of Stage I; at full size the reward is the CLIP score and there are 16,000 records.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    recipes.train_only(c, "image")
    return c
