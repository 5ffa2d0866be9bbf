"""Reads the blocks of a config that the reinforcement learning stage has, and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.config_block import check_value, field_annotations
from corl_jax.core.problems import Problems
from corl_jax.objectives.kl import KlConfig
from corl_jax.rewards.base import rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.custom import register_custom
from corl_jax.rewards.cycle import check_reward_options
from corl_jax.stages.config import check_keys, read_block, within
from corl_jax.stages.rl.config import BLOCKS, RewardTables, RlConfig
from corl_jax.stages.rl.config_blocks import TASKS
from corl_jax.stages.rl.config_rules import check_rules


def read_rl_config(config: Mapping[str, Any], updates_per_step: int) -> RlConfig:
    """The blocks ``rl``, ``rewards`` and ``kl`` of a config.

    Raises:
      UserError: a value or a combination of values that cannot be trained with.
    """
    check_keys(config["rl"], set(BLOCKS), "rl")
    check_keys(config["kl"], set(TASKS), "kl")
    check_keys(config["rewards"], {*TASKS, "options"}, "rewards")

    # Each block by itself, so that all problems are found.
    problems = Problems()
    blocks: dict[str, Any] = {}
    kl: dict[str, KlConfig] = {}
    for name, cls in BLOCKS.items():
        with problems.collect():
            blocks[name] = read_block(cls, config["rl"][name], f"rl.{name}")
    for task in TASKS:
        with problems.collect():
            kl[task] = read_block(KlConfig, config["kl"][task], f"kl.{task}")
    with problems.collect():
        options = _read_reward_options(config["rewards"]["options"])
    for task in TASKS:
        with problems.collect():
            _check_reward_weights(task, config["rewards"][task], config["rewards"]["options"])
    problems.raise_if_any()

    weights = {task: dict(config["rewards"][task]) for task in TASKS}
    starts = (0, *config["data"]["stages"])
    c = RlConfig(
        **blocks,
        stage_starts=starts,
        kl=kl,
        rewards=weights,
        reward_options=options,
    )
    check_rules(c, updates_per_step, config["microbatches"])
    return c


def _read_reward_options(block: Mapping[str, Any]) -> RewardOptions:
    """``config.rewards.options``. The user's rewards are registered, so that they have names."""
    options = read_block(RewardOptions, block, "rewards.options")
    problems = Problems()
    with problems.collect():
        register_custom(options.custom)
    with problems.collect(), within("rewards.options"):
        check_reward_options(options)
    problems.raise_if_any()
    return options


def _check_reward_weights(task: str, weights: Any, options: Mapping[str, Any]) -> None:
    """Checks ``config.rewards.image`` or ``.text``; the user's rewards must be registered."""
    with within("rewards"):
        check_value(task, weights, field_annotations(RewardTables)[task])
    # One of the user that could not be registered is an error of its own.
    own = {str(entry).rpartition(":")[2] for entry in options.get("custom", ())}
    problems = Problems()
    for name in weights.keys() - own:
        with problems.collect():
            rewards.require(name)
    problems.raise_if_any()
