"""Every value of a stage's config, checked before anything is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from corl_jax.core.checks.config_block import Interval, config_block, field_annotations
from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.optim import OptimConfig
from corl_jax.stages.config import (
    DataConfig,
    EvalsConfig,
    HooksConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ResumeConfig,
    RunConfig,
    ShardingRulesConfig,
    StageKeys,
    TrackersConfig,
    check_key,
    check_keys,
    read_block,
    read_run_config,
)
from corl_jax.stages.rl.read_config import read_rl_config
from corl_jax.stages.sft import SftConfig
from corl_jax.stages.tokenizer import TokenizerConfig

BLOCKS = {
    "model": ModelConfig,
    "lora": LoraConfig,
    "mesh": MeshConfig,
    "sharding_rules": ShardingRulesConfig,
    "data": DataConfig,
    "hooks": HooksConfig,
    "trackers": TrackersConfig,
    "alarms": AlarmConfig,
    "resume": ResumeConfig,
}
"""Blocks that every stage has, beside ``optim``."""
STAGE_KEYS = {
    "tokenizer": ("batch_size", "tokenizer"),
    "sft": ("batch_size", "trainable", "sft"),
    "rl": ("trainable", "rl", "rewards", "kl"),
}
"""Stage to the keys and blocks that it alone has."""

DERIVED = {"total_steps", "warmup_steps", "no_decay"}
"""Fields of ``OptimConfig`` that the block ``optim`` does not hold; it has ``warmup_ratio``."""


@config_block
class WarmupConfig:
    """What the block ``optim`` has beside the fields of ``OptimConfig``.

    Attributes:
      warmup_ratio: share of all updates in which the learning rate rises to its peak.
    """

    warmup_ratio: Annotated[float, Interval(ge=0, lt=1), "It is a share of all updates"] = 0.0


def check_config(config: Mapping[str, Any]) -> RunConfig:
    """Checks all that can be known to be wrong of a stage's config by itself.

    Files, devices and the policy to start from are not looked at.

    Returns:
      the keys that every stage has.

    Raises:
      UserError: a missing or unknown key, or values that they cannot have, all of them.
    """
    run = read_run_config(config)
    if run.stage not in STAGE_KEYS:
        raise UserError(f"config.stage must be one of {', '.join(STAGE_KEYS)}; got {run.stage!r}")

    keys = STAGE_KEYS[run.stage]
    if missing := [key for key in (*BLOCKS, "optim", *keys) if key not in config]:
        raise UserError(f"the config must have the key {missing[0]}; it is missing. Add it")

    # The blocks of all stages, then those of this one.
    problems, are_right = Problems(), set()
    for key, cls in BLOCKS.items():
        with problems.collect():
            read_block(cls, config[key], key)
            are_right.add(key)
    with problems.collect():
        optim_config(config)
    if "evals" in config:
        with problems.collect():
            read_block(EvalsConfig, config["evals"], "evals")
    for key, annotation in field_annotations(StageKeys).items():
        if key in keys:
            with problems.collect():
                check_key(config, key, annotation)
    with problems.collect():
        if run.stage == "tokenizer":
            read_block(TokenizerConfig, config["tokenizer"], "tokenizer")
        elif run.stage == "sft":
            read_block(SftConfig, config["sft"], "sft")
        # Some of its rules are about the stages of a curriculum, which the block data has.
        elif "data" in are_right:
            read_rl_config(config, run.updates_per_step)
    problems.raise_if_any()
    return run


def optim_config(config: Mapping[str, Any]) -> OptimConfig:
    """The block ``optim``. Schedules run over all updates, the warm-up over a share of them."""
    names = {field.name for field in dataclasses.fields(OptimConfig)} - DERIVED
    check_keys(config["optim"], names | {"warmup_ratio"}, "optim")
    block = dict(config["optim"])
    warmup_ratio = block.pop("warmup_ratio")
    read_block(WarmupConfig, {"warmup_ratio": warmup_ratio}, "optim")

    # A step may have several updates, and schedules count updates.
    updates = config["steps"] * config["updates_per_step"]
    return read_block(
        OptimConfig,
        block,
        "optim",
        total_steps=updates,
        warmup_steps=int(updates * warmup_ratio),
        no_decay=OptimConfig.no_decay,
    )
