"""CoRL from beginning to end: unified, then refined three ways, two of them merged, and everything measured.

    python -m corl_jax.main --config=configs/corl.py --workdir=runs/corl               the embedded world, on a CPU
    python -m corl_jax.main --config=configs/corl.py:janus_pro_1b --workdir=runs/corl  the paper's values

Every stage has a folder of its own under the work directory, and its whole config under ``config.train.NAME``. The
same command goes on where it was stopped. At tiny the stages are short: they show how the parts fit together, not how
far one gets. The paper merges the refined policies for multiple choice and for open questions; from what base, it does
not say: here it is the unified policy, from which both began.
"""

from __future__ import annotations

import ml_collections

from configs import refined_mc, refined_oe, refined_t2i, unified

STAGES = {
    "unified": unified,
    "refined_t2i": refined_t2i,
    "refined_mc": refined_mc,
    "refined_oe": refined_oe,
}
SHORT = {"unified": 40, "refined_t2i": 20, "refined_mc": 20, "refined_oe": 20}
"""Steps at tiny."""


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``, for all stages."""
    c = ml_collections.ConfigDict({"stage": "pipeline", "seed": 0})
    c.order = (*STAGES, "merged")
    c.train = ml_collections.ConfigDict()
    for name, stage in STAGES.items():
        one = stage.get_config(arg)
        one.seed = c.get_ref("seed")
        if name != "unified":
            one.init_from = "@unified"
        if one.model.size == "tiny":
            one.steps = SHORT[name]
            one.hooks.save_every = 10
        one.evals.n = 0  # all policies are measured together at the end
        c.train[name] = one
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
    small = c.train.unified.model.size == "tiny"
    c.evals = ml_collections.ConfigDict(
        {"n": 256 if small else 0, "guidances": (1.5, 2.0), "seed": 0, "batch": 64}
    )
    return c
