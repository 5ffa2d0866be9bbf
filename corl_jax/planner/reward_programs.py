"""The programs that compute a step's rewards, on arrays that do not exist. In: a stage; out: reward models and calls.

Captions are as long as they may be and texts are compared at ``TEXT`` tokens; what a user's own reward runs is not
known here.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Prompts, Rollout
from corl_jax.planner.calls import Call
from corl_jax.reward_models.base import TINY, LoadedModel, abstract_reward_model
from corl_jax.reward_models.batched import global_rows
from corl_jax.reward_models.bert import similarity
from corl_jax.reward_models.blip import captioner
from corl_jax.reward_models.clip import text_image
from corl_jax.reward_models.collection import SPECS
from corl_jax.reward_models.lpips import distance
from corl_jax.rewards.requirements import needed, uses
from corl_jax.sampling.policy_handle import prompt_states
from corl_jax.stages.rl.stage import RlStage

TEXT = 64
"""Tokens of a text that is compared with another; see ``reward_models.bert.similarity.WIDTHS``."""

Rows = Callable[[tuple[int, ...], Any], jax.ShapeDtypeStruct]
"""From shape and dtype to an abstract batch."""


def planned_nets(stage: RlStage) -> dict[str, LoadedModel]:
    """The reward models of a run, by name, without weights."""
    s, sharder = stage.settings, stage.parts.sharder
    names = sorted(needed(_table(stage), s.reward))
    return {
        name: abstract_reward_model(SPECS[name], s.reward.models.get(name, ""), sharder)
        for name in names
    }


def assumed(stage: RlStage) -> list[str]:
    """A sentence for each reward model whose sizes are taken for those of another, since its folder is not here."""
    s, said = stage.settings, []
    for name in sorted(needed(_table(stage), s.reward)):
        source, home = s.reward.models.get(name, ""), SPECS[name].home
        here = source and pathlib.Path(source).expanduser().is_dir()
        if source not in (TINY, home) and not here:
            said.append(
                f"config.reward.models.{name}={source!r} is no folder here; planned with the sizes of {home}"
            )
    return said


def reward_calls(stage: RlStage, rows: Rows, nets: Mapping[str, LoadedModel]) -> list[Call]:
    """What the rewards of a step run."""
    s = stage.settings
    samples, size = s.pictures * s.group, global_rows(stage.parts.sharder.batch_shards)
    calls = []
    for name, times in sorted(uses(_table(stage), s.reward).items()):
        if name in POLICY:
            calls.append(
                Call(functools.partial(POLICY[name], stage, _readings(stage, rows)), times)
            )
        else:
            trace = functools.partial(NETS[name], nets[name], rows, size)
            calls.append(Call(trace, times * -(-samples // size)))
    return calls


def _table(stage: RlStage) -> list[str]:
    """Names of the rewards of pictures; those of texts run on the host."""
    return list(stage.settings.rewards["image"]) if "image" in stage.settings.asked else []


def _readings(stage: RlStage, rows: Rows) -> Prompts:
    """All pictures of a step, each with a text."""
    s, size = stage.settings, stage.parts.cfg.vision.image_size
    count = s.pictures * s.group
    width = (count, s.text_prompt_length)
    return Prompts(
        rows(width, jnp.int32), rows(width, jnp.bool_), rows((count, size, size, 3), jnp.float32)
    )


def _states(stage: RlStage, prompts: Prompts) -> Any:
    return prompt_states.trace(stage.parts.sampler, stage.parts.rollout, prompts)


def _answers(stage: RlStage, prompts: Prompts) -> Any:
    sampler = stage.parts.sampler

    def run(params: Any, prompts: Prompts) -> Rollout:
        keys = sample_keys(stream(0, "answers", 0), prompts.tokens.shape[0])[:, None]
        sampling = sampler.sampling("text", temperature=0.0)
        return sampler.sample_text(
            params, prompts, keys, sampling, stage.settings.completion_length
        )

    return jax.jit(run).trace(stage.parts.rollout, prompts)


def _captioner(net: LoadedModel, rows: Rows, count: int) -> Any:
    side = net.cfg.vision.image_size
    return captioner.captioning(net).trace(
        net.params, rows((count, side, side, 3), jnp.uint8), captioner.LENGTH
    )


def _texts(net: LoadedModel, rows: Rows, count: int) -> Any:
    width = min(TEXT, net.cfg.max_tokens)
    pairs, lengths = rows((count, 2, width), jnp.int32), rows((count, 2), jnp.int32)
    return similarity.comparison(net).trace(net.params, pairs, lengths)


def _clip(net: LoadedModel, rows: Rows, count: int) -> Any:
    side = net.cfg.image_size
    pictures, ids = (
        rows((count, side, side, 3), jnp.uint8),
        rows((count, net.cfg.context), jnp.int32),
    )
    return text_image.fitting(net).trace(net.params, pictures, ids)


def _lpips(net: LoadedModel, rows: Rows, count: int) -> Any:
    side = rows((count, distance.SIDE, distance.SIDE, 3), jnp.uint8)
    return distance.difference(net).trace(net.params, side, side)


POLICY = {"states": _states, "answers": _answers}
NETS = {"captioner": _captioner, "bert": _texts, "sentence": _texts, "clip": _clip, "lpips": _lpips}
