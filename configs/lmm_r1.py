"""LMM-R1's order: first questions about texts, then drawing and questions about pictures.

    python -m corl_jax.main --config=configs/lmm_r1.py --workdir=runs/lmm_r1
    python -m corl_jax.main --config=configs/lmm_r1.py:janus_pro_1b --workdir=runs/lmm_r1

Hardware and time: as its two stages, ``configs/text_first.py`` and ``configs/unified.py``.
Expected of the embedded world: not measured. The paper (arXiv 2503.07536) gains with a model that
reasons well in words; the second stage there is of pictures alone, here of both tasks.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common, text_first, unified

STAGES = {"text_first": text_first, "unified": unified}
TINY_STEPS = {"text_first": 50, "unified": 100}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``, for both stages."""
    c = ml_collections.ConfigDict({"stage": "pipeline", "seed": 0})
    c.order = tuple(STAGES)
    c.train = ml_collections.ConfigDict()
    for name, config_module in STAGES.items():
        stage = config_module.get_config(arg)
        stage.seed = c.get_ref("seed")
        if stage.model.size == "tiny":
            stage.steps = TINY_STEPS[name]
            stage.evals.num_records = 0  # both policies are evaluated together at the end
        c.train[name] = stage
    c.train.unified.init_from = "@text_first"

    c.merge = ml_collections.ConfigDict()
    is_tiny = c.train.unified.model.size == "tiny"
    c.evals = common.evals(num_records=256 if is_tiny else 0, guidance_scales=(1.5, 2.0))
    return c
