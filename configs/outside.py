"""RL-PLUS for drawing: the record's real picture is one of the samples of every group of images.

    python -m corl_jax.main --config=configs/outside.py                 the embedded world
    python -m corl_jax.main --config=configs/outside.py:janus_pro_1b    with the rewards of CoRL

Hardware and time: as ``configs/unified.py``; encoding a picture per prompt is little beside a rollout.
Expected of the embedded world, held out: not measured yet.

Where none of the policy's own images earns anything, the real picture still shows the way: its image
tokens have weights of their own, the largest where the policy is undecided (docs/variants.md).
As in RL-PLUS advantages are not divided by a standard deviation, nothing is clipped, and images have
no KL term. The paper has solutions of a stronger model to problems of mathematics, 1 of 8 samples, learning
rate 1e-6; that pictures serve as well is a guess of ours. Each task has its own advantage, since no
answer belongs to a real picture.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    c.rl.external.image = "record_image"
    c.rl.advantage.update({"pairing": "separate", "normalization": "none"})
    c.rl.loss.clip = "none"
    c.kl.image.update({"schedule": "none", "start": 0.0, "end": 0.0})
    c.progress_metrics = tuple(name for name in c.progress_metrics if name != "image/kl")
    return c
