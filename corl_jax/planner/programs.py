"""The programs that a step of reinforcement learning runs, on arrays that do not exist.

In: a config and devices, real or abstract. Out: by phase, traced programs. They come from the stage's own methods, so
what is planned is what training compiles.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype
from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import partition
from corl_jax.core.types import Params, PolicyBatch, PromptBatch, Prompts, Rollout
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.state import TrainState
from corl_jax.engine.update import Update, make_update
from corl_jax.planner.calls import Call
from corl_jax.planner.reward_programs import planned_nets, reward_calls
from corl_jax.reward_models.base import LoadedModel
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run import optim_config
from corl_jax.stages.setup import DEFAULT_SIZE, Setup, build_setup

PHASES = ("rollout_image", "rollout_text", "score", "update", "rewards")


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage over abstract arrays.

    Attributes:
      stage, parts: as training builds them.
      state: shapes, dtypes and placement of all that training remembers.
      update: the update, not yet traced.
      microbatches: of the update.
      compute_dtype: of activations and caches.
      remat: what the backward pass keeps.
      nets: the reward models, by name.
    """

    stage: RlStage
    parts: Setup
    state: TrainState
    update: Update
    microbatches: int
    compute_dtype: Any
    remat: str
    reward_models: Mapping[str, LoadedModel]

    def prompts(self, task: str) -> Prompts:
        """Abstract prompts of a step."""
        s, size = self.stage.settings, self.parts.cfg.vision.image_size
        rows, width = (
            self.stage.rollouts.rows_in(task),
            s.image_prompt_length if task == "image" else s.text_prompt_length,
        )
        pictures = None if task == "image" else self.rows((rows, size, size, 3), jnp.float32)
        return Prompts(
            self.rows((rows, width), jnp.int32), self.rows((rows, width), jnp.bool_), pictures
        )

    def rows(self, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        """An abstract batch, placed as ``Sharder.put_batch`` places it."""
        sharder = self.parts.sharder
        placement = (
            sharder.named_sharding("batch")
            if shape[0] % sharder.batch_shards == 0
            else sharder.named_sharding()
        )
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placement)

    def sample(self, task: str) -> Any:
        """The rollout, traced."""

        def run(params: Any, prompts: Prompts) -> Rollout:
            return self.stage.rollouts.sample(
                self.stage.rollouts.lighten(params), task, PromptBatch(prompts, ()), 0
            )

        return jax.jit(run).trace(self.parts.rollout, self.prompts(task))

    def rollout(self, task: str) -> Rollout:
        """An abstract rollout."""
        return jax.tree.map(
            lambda leaf: self.rows(leaf.shape, leaf.dtype), self.sample(task).out_info
        )

    def score(self, task: str) -> Any:
        """The reference's log-probs of a rollout, traced."""

        def run(params: Any, prompts: Prompts, rollout: Rollout) -> jax.Array:
            return self.stage.rollouts.log_probs(params, task, PromptBatch(prompts, ()), rollout)

        return jax.jit(run).trace(self.parts.base, self.prompts(task), self.rollout(task))

    def batch(self, tasks: Sequence[str]) -> dict[str, PolicyBatch]:
        """The abstract batch of an update of these tasks."""
        s, out = self.stage.settings, {}
        for task in tasks:
            rollout = self.rollout(task)
            shape, number = rollout.tokens.shape, self.rows(rollout.tokens.shape, jnp.float32)
            out[task] = PolicyBatch(
                prompts=self.prompts(task),
                tokens=rollout.tokens,
                mask=rollout.mask,
                sampler_log_probs=number,
                old_log_probs=number if self.stage.updates > 1 else None,
                ref_log_probs=number if s.needs_reference else None,
                advantages=self.rows(shape[:2], jnp.float32),
                weights=number,
                rewards=self.rows((*shape[:2], len(s.rewards[task])), jnp.float32)
                if s.reward.normalise == "running"
                else None,
            )
        return out

    def traced_update(self, tasks: Sequence[str]) -> Any:
        """The update of these tasks, traced."""
        return self.update.trace(self.state, self.batch(tasks))

    def phases(self) -> Mapping[str, list[Call]]:
        """What each phase runs, in order; where tasks take turns, in a step of each."""
        s = self.stage.settings
        turns = [(task,) for task in s.asked] if s.alternate else [s.asked]
        scored = s.asked if s.needs_reference else ()
        return {
            "rollout_image": [Call(lambda: self.sample("image"))] if "image" in s.asked else [],
            "rollout_text": [Call(lambda: self.sample("text"))] if "text" in s.asked else [],
            "score": [Call(functools.partial(self.score, task)) for task in scored],
            "update": [Call(functools.partial(self.traced_update, tasks)) for tasks in turns],
            "rewards": reward_calls(self.stage, self.rows, self.reward_models),
        }

    def trace(self, call: Call) -> Any:
        """Traces with the constraints that training has."""
        with sharding_context(self.parts.sharder):
            return call.trace()


def open_step(config: Mapping[str, Any], devices: Any) -> Step:
    """The step that ``config`` trains, on ``devices``; no weights are read, of a named size not even the folder.

    Raises:
      UserError: a config that cannot be trained, or of another stage.
    """
    if config["stage"] != "rl":
        raise UserError(
            f"the planner knows stages of reinforcement learning; this config trains {config['stage']!r}"
        )
    plain = json.loads(json.dumps(config))
    if plain["model"]["size"] != DEFAULT_SIZE:  # else the size is that of the source
        plain["init_from"] = ""
    if devices is not None and plain["model"]["compute_dtype"] == "auto":
        plain["model"]["compute_dtype"] = "bfloat16"
    optimizer = make_optimizer(optim_config(plain))
    parts = build_setup(plain, devices)
    stage = RlStage(plain, parts, optimizer)
    trainable, frozen = partition(parts.structs, stage.trainable)
    whole = parts.sharder.named_sharding()

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        like = (
            trainable.get(path[-1].key)
            if path and isinstance(path[-1], jax.tree_util.DictKey)
            else None
        )
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=whole if like is None else like.sharding
        )

    moments = jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, trainable))
    algo = jax.eval_shape(stage.algo)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        cast(Params, trainable),
        cast(Params, frozen),
        moments,
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), algo
        ),
        cast(Params, dict(trainable)) if stage.settings.stale_rollouts else {},
        stage.follower(cast(Params, dict(trainable))),
    )
    update = make_update(stage.loss, stage.after, optimizer, plain["microbatches"])
    dtype = jnp.dtype(compute_dtype(plain["model"]["compute_dtype"]))
    nets = planned_nets(stage)
    return Step(
        stage, parts, state, update, plain["microbatches"], dtype, plain["model"]["remat"], nets
    )
