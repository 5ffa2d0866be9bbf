"""T2I-R1's BiCoT-GRPO: the policy plans a picture in words, then draws behind its plan.

    python -m corl_jax.main --config=configs/plan.py                 the embedded world
    python -m corl_jax.main --config=configs/plan.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world trains pictures alone, in about the time of
``configs/separate_t2i.py`` and that of a text of 18 tokens per picture (not measured yet).
Expected of the embedded world, held out: a low start. The base has neither written a plan nor drawn
behind one: what it writes is no list of the objects, and images that show what was asked fall from
45 % without plans to 11 % behind them (64 captions, one image each, guidance 1.5, ``objects``,
2026-11-27). Where that leads is measured by ``corl study plan``.

A prompt has 8 plans with a picture behind each, and the picture's reward trains both. At full size: 16
prompts a step, guidance 5, KL 0.01, learning rate 1e-6, 1,600 steps, all tokens of plan and picture
with one weight, as in the paper's code; its plans have at most 1024 tokens and are asked to have 50
words, here they are cut at 128. The rewards and the records are those of ``configs/unified.py``; the
paper's are HPSv2.1, GIT, GroundingDINO and a fine-tuned LLaVA, on prompts of its own.

    corl sample --policy runs/plan --plan --prompt "a red circle" --out pictures
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.train_only(c, "image")
    recipes.plan(c)
    return c
