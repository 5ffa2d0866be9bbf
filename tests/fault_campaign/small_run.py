"""The config of the runs that are hurt: unified reinforcement learning of the smallest policy.

It is as small as can be and has every part of a train state: a reference policy, a KL coefficient
that is steered, moments of rewards, and a data position.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import unified

STEPS = 8
SAVE_EVERY = 2

REWARDS = {"image": "redness", "text": "letters"}
"""Task to the function of ``small_rewards`` that is its reward."""


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config; paths of the policy and of the records come by flag."""
    c = unified.get_config(arg)
    c.steps = STEPS
    # A large epsilon keeps Adam from magnifying rounding.
    c.optim.update({"learning_rate": 1e-2, "eps": 1e-3, "warmup_ratio": 0.0})
    c.rl.rollout.update(
        {"image_prompts": 4, "text_prompts": 4, "group_size": 2, "completion_length": 4}
    )

    c.rewards.options.normalization = "running"
    c.rewards.options.custom = tuple(
        f"fault_campaign.small_rewards:{name}" for name in REWARDS.values()
    )
    for task, name in REWARDS.items():
        c.rewards[task] = ml_collections.ConfigDict({name: 1.0})
        c.kl[task].update({"schedule": "adaptive", "start": 0.1})

    c.evals.num_records = 0
    c.hooks.update({"save_every": SAVE_EVERY, "sample_every": 4})
    c.trackers.every = 2
    c.hooks.update({"probe_every": 0, "interference_every": 0})
    return c
