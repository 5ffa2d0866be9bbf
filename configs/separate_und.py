"""CoRL's pilot study: reinforcement learning of answers alone, to compare with learning both at once.

python -m corl_jax.main --config=configs/separate_und.py

Values of Stage I, rewards for the right answer and for its form; at full size 16,000 records. ``corl merge`` makes one
policy of this one and that of ``configs/separate_t2i.py``.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    recipes.only(c, "text")
    return c
