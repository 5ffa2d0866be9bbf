"""CoRL's pilot study: RL of answers alone, to compare with learning both tasks at once.

    python -m corl_jax.main --config=configs/separate_und.py                 the embedded world
    python -m corl_jax.main --config=configs/separate_und.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes 100 seconds on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected of the embedded world, held out: right and well-formed answers 32 % -> 49 %, and images a
little worse than before, 31 % -> 27 % at guidance 1.5.

Values of Stage I, with rewards for the right answer and for its form; at full size 16,000 records.
``corl merge`` makes one policy of this one and that of ``configs/separate_t2i.py``.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    recipes.train_only(c, "text")
    return c
