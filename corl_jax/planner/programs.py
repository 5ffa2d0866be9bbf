"""The programs that a step of reinforcement learning runs, traced over abstract arrays.

``open_step`` builds the stage of a config on devices that may be abstract too. Its programs come
from the stage's own methods, so that what is planned is what training compiles. Every array is a
``jax.ShapeDtypeStruct`` with a sharding; none has values.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype
from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import partition
from corl_jax.core.types import Params, PolicyBatch, PromptBatch, Prompts, Rollout
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.state import TrainState
from corl_jax.engine.update import make_update
from corl_jax.planner.calls import ProgramCall
from corl_jax.planner.reward_programs import abstract_reward_models, reward_program_calls
from corl_jax.reward_models.base import LoadedModel
from corl_jax.stages.rl.parts import parts_of, text_parts
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.setup import DEFAULT_SIZE, Setup, build_setup
from corl_jax.stages.whole_config import check_config, optim_config

PHASES = ("rollout_image", "rollout_text", "log_probs", "update", "rewards")
"""Phases of a step, in the order in which a plan prints them."""


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A training step over abstract arrays.

    Attributes:
      stage: as training builds it.
      setup: as training builds it.
      state: shapes, dtypes and shardings of the train state.
      update: the jitted update, not yet traced.
      microbatches: of the update.
      compute_dtype: of activations, and of KV caches that are not quantized.
      remat: what the backward pass keeps of the forward pass, ``config.model.remat``.
      reward_models: name to reward model, without weights.
    """

    stage: RlStage
    setup: Setup
    state: TrainState
    update: jax.stages.Wrapped
    microbatches: int
    compute_dtype: jnp.dtype
    remat: str
    reward_models: Mapping[str, LoadedModel]

    def abstract_rows(self, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        """An abstract batch ``[N, ...]``, sharded as ``Sharder.put_batch`` shards it."""
        sharder = self.setup.sharder
        divides = shape[0] % sharder.batch_shards == 0
        sharding = sharder.named_sharding("batch") if divides else sharder.named_sharding()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def prompts(self, part: str) -> Prompts:
        """Abstract prompts of a step, ``[B * f, P]``."""
        image_size, length = self.setup.cfg.image_size, self.stage.cfg.prompt_length(part)
        rows = self.stage.rollout_sampler.rows_per_step(part)

        # A question comes with an image; what asks for an image, or a plan, is text alone.
        images = None
        has_pictures = self.stage.cfg.rollout.question_pictures
        if part == "check" or (part == "text" and has_pictures):
            images = self.abstract_rows((rows, image_size, image_size, 3), jnp.float32)
        tokens = self.abstract_rows((rows, length), jnp.int32)
        mask = self.abstract_rows((rows, length), jnp.bool_)
        return Prompts(tokens, mask, images)

    def rollout(self, part: str) -> Rollout:
        """An abstract rollout of a step."""
        return jax.tree.map(
            lambda leaf: self.abstract_rows(leaf.shape, leaf.dtype),
            self.traced_rollout(part).out_info,
        )

    def policy_batches(self, parts: Sequence[str]) -> dict[str, PolicyBatch]:
        """The abstract batch of an update of these parts."""
        cfg, batches = self.stage.cfg, {}
        needs_old_log_probs = self.stage.policy_batches.needs_old_log_probs

        for part in parts:
            # Completions ``[B * f, G / f, T]``.
            rollout = self.rollout(part)
            shape = rollout.tokens.shape
            per_token = self.abstract_rows(shape, jnp.float32)

            # Old log-probs, reference log-probs and rewards are there only if the loss needs them.
            batch = PolicyBatch.build(
                self.prompts(part),
                rollout,
                weights=per_token,
                advantages=self.abstract_rows(shape[:2], jnp.float32),
                old_log_probs=per_token if needs_old_log_probs(part) else None,
                ref_log_probs=per_token if cfg.needs_reference else None,
            )
            keeps_moments = cfg.reward_options.normalization == "running"
            if keeps_moments and part in cfg.tasks:
                rewards_shape = (*shape[:2], len(cfg.rewards[part]))
                rewards = self.abstract_rows(rewards_shape, jnp.float32)
                batch = dataclasses.replace(batch, rewards=rewards)

            if cfg.has_external(part):
                flags = self.abstract_rows(shape[:2], jnp.bool_)
                batch = dataclasses.replace(batch, is_external=flags)

            # Images whose tokens do not all have the same credit have factors.
            if part == "image" and cfg.loss.image_credit != "uniform":
                batch = dataclasses.replace(
                    batch, advantage_factors=per_token, kl_factors=per_token
                )

            batches[part] = jax.tree.map(self.minibatch_rows, batch)
        return batches

    def minibatch_rows(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """A leaf of a step's batch with the rows of one of its mini-batches."""
        rows = leaf.shape[0] // self.stage.cfg.rollout.minibatches
        return self.abstract_rows((rows, *leaf.shape[1:]), leaf.dtype)

    def traced_rollout(self, part: str) -> jax.stages.Traced:
        """The program that samples the completions of a part."""
        sampler = self.stage.rollout_sampler

        # The records of a batch are for the host, and step 0 stands for every step.
        def sample(params: Params, prompts: Prompts) -> Rollout:
            batch = PromptBatch(prompts, ())
            return sampler.sample_part(sampler.quantize(params), part, batch, step=0)

        return jax.jit(sample).trace(self.setup.rollout_param_specs, self.prompts(part))

    def reference_log_probs(self, part: str) -> jax.stages.Traced:
        """The program that computes log-probs of a rollout under the reference policy."""

        def log_probs(params: Params, prompts: Prompts, rollout: Rollout) -> jax.Array:
            batch = PromptBatch(prompts, ())
            return self.stage.rollout_sampler.log_probs(params, part, batch, rollout)

        return jax.jit(log_probs).trace(
            self.setup.base_param_specs, self.prompts(part), self.rollout(part)
        )

    def traced_update(self, parts: Sequence[str]) -> jax.stages.Traced:
        """The update of these parts."""
        return self.update.trace(
            self.state.with_frozen({}), self.state.frozen, self.policy_batches(parts)
        )

    def phases(self) -> Mapping[str, list[ProgramCall]]:
        """Phase to the programs that it runs, in order.

        Where tasks are trained in turns (``alternate_every``), these are the programs of one step
        of each task.
        """
        cfg = self.stage.cfg

        # Each part has a rollout; each task has an update, or both tasks one update.
        texts = text_parts(cfg.parts)
        rollouts = {
            part: ProgramCall(functools.partial(self.traced_rollout, part)) for part in cfg.parts
        }
        updated_parts: list[Sequence[str]] = [cfg.parts]
        if cfg.rollout.alternate_every:
            updated_parts = [parts_of(task, cfg.parts) for task in cfg.tasks]

        # Only KL terms need the reference policy.
        reference_parts = cfg.parts if cfg.needs_reference else ()
        return {
            "rollout_image": [rollouts["image"]] if "image" in rollouts else [],
            "rollout_text": [rollouts[part] for part in texts],
            "log_probs": [
                ProgramCall(functools.partial(self.reference_log_probs, part))
                for part in reference_parts
            ],
            "update": [
                ProgramCall(functools.partial(self.traced_update, parts)) for parts in updated_parts
            ],
            "rewards": reward_program_calls(self.stage, self.abstract_rows, self.reward_models),
        }

    def trace(self, call: ProgramCall) -> jax.stages.Traced:
        """The traced program of a call, with the sharding constraints that training has."""
        with sharding_context(self.setup.sharder):
            return call.trace()


def open_step(config: Mapping[str, Any], devices: Sequence[jax.Device] | None) -> PlannedStep:
    """The training step of ``config`` on ``devices``.

    No weights are read. Where the config names a model size, ``init_from`` is not opened either.

    Args:
      config: of the stage ``rl``.
      devices: real or abstract; None for all devices of this machine.

    Raises:
      UserError: a config that cannot be trained, or a config of another stage.
    """
    if config["stage"] != "rl":
        raise UserError(
            f"config.stage must be 'rl' for a plan; got {config['stage']!r}. Choose a config of "
            "reinforcement learning, such as configs/unified.py"
        )
    check_config(config)
    changed = json.loads(json.dumps(config))

    # Only a config without a model size takes the sizes from the folder in init_from.
    if changed["model"]["size"] != DEFAULT_SIZE:
        changed["init_from"] = ""

    # "auto" would mean this machine, which is often a CPU; accelerators compute in bfloat16.
    if devices is not None and changed["model"]["compute_dtype"] == "auto":
        changed["model"]["compute_dtype"] = "bfloat16"

    # The stage, as ``stages.start_checks`` builds it.
    optimizer = make_optimizer(optim_config(changed))
    setup = build_setup(changed, devices)
    stage = RlStage(changed, setup, optimizer)
    for part in stage.cfg.parts:
        stage.rollout_sampler.check_length(part)

    # The state that the update of that stage receives.
    state, microbatches = _abstract_state(stage), changed["microbatches"]
    update = make_update(stage.loss, stage.update_algo_state, optimizer, microbatches, state)
    return PlannedStep(
        stage=stage,
        setup=setup,
        state=state,
        update=update,
        microbatches=microbatches,
        compute_dtype=jnp.dtype(compute_dtype(changed["model"]["compute_dtype"])),
        remat=changed["model"]["remat"],
        reward_models=abstract_reward_models(stage),
    )


def _abstract_state(stage: RlStage) -> TrainState:
    """Shapes, dtypes and shardings of the state that ``stage.init_state`` returns."""
    trainable, frozen = partition(stage.setup.param_specs, stage.trainable)
    replicated = stage.setup.sharder.named_sharding()

    # A moment ends in the path of its parameter and has its sharding; counters are replicated.
    def moment_spec(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        key = path[-1] if path else None
        sharding = replicated
        if isinstance(key, jax.tree_util.DictKey) and key.key in trainable:
            sharding = trainable[key.key].sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    # State of the optimizer, and of the algorithm, which is replicated.
    opt_state = jax.eval_shape(stage.optimizer.init, trainable)
    algo = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        jax.eval_shape(stage.init_algo_state),
    )

    params = cast(Params, trainable)
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        trainable=params,
        frozen=cast(Params, frozen),
        opt_state=jax.tree_util.tree_map_with_path(moment_spec, opt_state),
        algo=algo,
        previous=dict(params) if stage.cfg.rollout.one_step_off_policy else {},
        reference=stage.following_reference(dict(params)),
    )
