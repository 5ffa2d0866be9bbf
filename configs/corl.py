"""CoRL from beginning to end: unified RL, three refinements, a merge of two, and all evaluated.

    python -m corl_jax.main --config=configs/corl.py --workdir=runs/corl               the embedded world
    python -m corl_jax.main --config=configs/corl.py:janus_pro_1b --workdir=runs/corl  the paper's values

Hardware and time: the embedded world takes 3 to 4 minutes on 2 CPU cores (docs/recipes.md has the
machines and the table that it writes).
Expected of the embedded world, held out: format 67 % -> 94 % or more in every stage, right and
well-formed answers 36 % -> 51 %, images 31 % -> 39 % at guidance 1.5.

Every stage has a folder of its own in the work directory, and its whole config in
``config.train.NAME``. The same command resumes where it was stopped. At tiny the stages are short:
they show how the parts fit together, not how far one gets. The paper merges the policies refined for
multiple choice and for open questions, but names no base of the merge; here it is the unified policy,
from which both started.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common, refined_mc, refined_oe, refined_t2i, unified

STAGES = {
    "unified": unified,
    "refined_t2i": refined_t2i,
    "refined_mc": refined_mc,
    "refined_oe": refined_oe,
}
TINY_STEPS = {"unified": 40, "refined_t2i": 20, "refined_mc": 20, "refined_oe": 20}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``, for all stages."""
    c = ml_collections.ConfigDict({"stage": "pipeline", "seed": 0})
    c.order = (*STAGES, "merged")
    c.train = ml_collections.ConfigDict()
    for name, config_module in STAGES.items():
        stage = config_module.get_config(arg)
        stage.seed = c.get_ref("seed")
        if name != "unified":
            stage.init_from = "@unified"
        if stage.model.size == "tiny":
            stage.steps = TINY_STEPS[name]
            stage.hooks.save_every = 10
            stage.evals.num_records = 0  # all policies are evaluated together at the end
        c.train[name] = stage

    c.merge = ml_collections.ConfigDict(
        {
            "merged": {
                "base": "@unified",
                "experts": ("@refined_mc", "@refined_oe"),
                "method": "gaussian",
                "lam": 2.0,
                "weights": (),
                "dtype": "stored",
            }
        }
    )
    is_tiny = c.train.unified.model.size == "tiny"
    c.evals = common.evals(num_records=256 if is_tiny else 0, guidance_scales=(1.5, 2.0))
    return c
