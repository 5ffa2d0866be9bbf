"""A training step of corl_jax on random weights, for ``corl bench step``.

Its programs are those of the RL stage: rollouts of both tasks, and the update. What does not depend
on shapes is left out: rewards and records. There is no KL term, so no reference policy is scored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from corl_jax.bench.workloads import CLIP_NORM, GUIDANCE_SCALE, LEARNING_RATE, Workload
from corl_jax.core.runtime import compute_dtype
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind, flatten_abstract, partition
from corl_jax.core.types import Params, PolicyBatch, Prompts, Rollout
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.engine.update import make_update
from corl_jax.models.janus.model import logical_axes
from corl_jax.objectives import kl
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.objectives.token_weights import token_weights
from corl_jax.rewards.config import RewardOptions
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.policy import Policy
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.param_placement import cast_matmul_params, param_specs, reshard
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.config_blocks import (
    TASKS,
    AdvantageConfig,
    CheckConfig,
    CurriculumConfig,
    ExternalConfig,
    LogProbsConfig,
    LossConfig,
    PlanConfig,
    ReferenceConfig,
    RolloutConfig,
)
from corl_jax.stages.rl.loss import policy_loss


def rl_config(workload: Workload) -> RlConfig:
    """The config of ``configs/unified.py`` at full size, with the sizes of ``workload``."""
    # Every option that is not named has its default.
    return RlConfig(
        rollout=RolloutConfig(
            image_prompts=workload.prompts,
            text_prompts=workload.prompts,
            group_size=workload.group_size,
            guidance_scale=GUIDANCE_SCALE,
            completion_length=workload.answer_length,
        ),
        advantage=AdvantageConfig(pairing="unified"),
        loss=LossConfig(),
        curriculum=CurriculumConfig(),
        external=ExternalConfig(),
        stage_starts=(0,),
        log_probs=LogProbsConfig(chunk_length=workload.chunk_length),
        reference=ReferenceConfig(),
        plan=PlanConfig(),
        check=CheckConfig(),
        kl={task: kl.KlConfig() for task in TASKS},
        rewards={},
        reward_options=RewardOptions(),
    )


class JaxStep:
    """A ``timing.StepContender`` that runs corl_jax, its rows spread over devices.

    Args:
      policy: on one device.
      image, text: prompts of both tasks.
      ids: ``banned`` must hold the end token, so that no answer ends early.
      workload: how much a step does.
      devices: over which rows are spread.
    """

    def __init__(
        self,
        policy: Policy,
        image: Prompts,
        text: Prompts,
        ids: SpecialTokenIds,
        workload: Workload,
        devices: Sequence[jax.Device],
    ):
        self.sharder = sharder = Sharder(make_mesh({"data": -1}, devices))
        self.workload, self.cfg = workload, rl_config(workload)
        self.prompts = {"image": sharder.put_batch(image), "text": sharder.put_batch(text)}

        # One model definition to sample with, and one to train with.
        self.rollout_policy = dataclasses.replace(policy.fns, ids=ids)
        model = bind(self.rollout_policy.graphdef, policy.params)
        axes = logical_axes(model)
        model.language_model.unroll = workload.unroll

        # The train state: only the language model is trained.
        specs = param_specs(flatten_abstract(model), axes, sharder)
        params = jax.device_put(policy.params, {path: specs[path].sharding for path in specs})
        trainable, frozen = partition(params, ["language_model/*"])
        # While sampling, matrices are kept in the dtype in which they are multiplied.
        self._rollout_specs = cast_matmul_params(specs, jnp.dtype(compute_dtype("auto")))
        self._rollout_params: Params | None = None
        self._batch_specs: dict[str, PolicyBatch] | None = None
        optimizer = make_optimizer(OptimConfig(LEARNING_RATE, total_steps=1, clip_norm=CLIP_NORM))
        algo = {task: kl.initial_kl_state(self.cfg.kl[task], 1) for task in TASKS}
        self.state = create_state(trainable, frozen, optimizer, algo)

        def update_of(remat: str, cfg: RlConfig, microbatches: int) -> jax.stages.Wrapped:
            model.language_model.remat = remat
            policy_fns = dataclasses.replace(self.rollout_policy, graphdef=nnx.split(model)[0])
            # The KL coefficients stay 0, so the state of the algorithm never changes.
            return make_update(
                loss=functools.partial(policy_loss, policy_fns, cfg),
                update_algo_state=lambda algo, metrics: algo,
                optimizer=optimizer,
                microbatches=microbatches,
                state=self.state,
            )

        microbatches = max(1, workload.microbatches // len(devices))
        self._update = update_of(workload.remat, self.cfg, microbatches)
        # The same without parts, in which nothing is computed again: only its trace is made.
        whole = rl_config(dataclasses.replace(workload, chunk_length=0))
        self._whole_update = update_of("none", whole, 1)

    def sample_images(self, seed: int) -> Rollout:
        """Rollout of ``PolicyFns.sample_images``."""
        # Guidance doubles the rows of the program: conditional and unconditional prompts.
        args = self._arguments("image", seed)
        with sharding_context(self.sharder):
            return jax.block_until_ready(
                self.rollout_policy.sample_images(*args, self.cfg.rollout.uses_guidance)
            )

    def sample_text(self, seed: int) -> Rollout:
        """Rollout of ``PolicyFns.sample_text``."""
        args = self._arguments("text", seed)
        with sharding_context(self.sharder):
            return jax.block_until_ready(
                self.rollout_policy.sample_text(*args, self.workload.answer_length)
            )

    def update(self, image: Rollout, text: Rollout) -> dict[str, float]:
        """One update with the loss of the RL stage; its metrics."""
        # The copy of the parameters that sampled is made anew at the next rollout.
        self._rollout_params = None

        # The update donates the state without its frozen parameters, and returns it so.
        frozen, batch = self.state.frozen, self._batch(image, text)
        self._batch_specs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch
        )
        with sharding_context(self.sharder):
            state, metrics = self._update(self.state.with_frozen({}), frozen, batch)
        self.state = state.with_frozen(frozen)

        # Reading the metrics waits for the update.
        return {name: float(value.value) for name, value in jax.block_until_ready(metrics).items()}

    def update_flops(self, count_flops: Callable[..., float]) -> float:
        """FLOPs of an update on all devices together, without what is computed again.

        Args:
          count_flops: ``planner.flops.call_flops``, which counts products in a function's trace.

        Raises:
          ValueError: there was no update yet.
        """
        if self._batch_specs is None:
            raise ValueError("update_flops needs the shapes of a batch; call update before")
        with sharding_context(self.sharder):
            state = self.state.with_frozen({})
            return count_flops(self._whole_update, state, self.state.frozen, self._batch_specs)

    def _batch(self, image: Rollout, text: Rollout) -> dict[str, PolicyBatch]:
        """What the RL stage builds from rollouts and rewards."""
        batch = {
            task: PolicyBatch.build(
                self.prompts[task],
                rollout,
                advantages=self.workload.advantages(),
                weights=token_weights(rollout.mask, aggregation=self.cfg.loss.aggregation),
            )
            for task, rollout in (("image", image), ("text", text))
        }
        return self.sharder.put_batch(batch)

    def _arguments(
        self, task: str, seed: int
    ) -> tuple[Params, Prompts, Key[Array, "B G"], SamplingParams]:
        """Arguments that both samplers share: parameters, prompts, keys, distribution."""
        rows = np.arange(self.workload.prompts)
        keys = prompt_keys(seed, f"bench/{task}", rows, self.workload.group_size)
        sampling = self.cfg.sampling_params(self.rollout_policy, task)
        if self._rollout_params is None:
            self._rollout_params = reshard(self.state.params, self._rollout_specs)
        return self._rollout_params, self.prompts[task], keys, sampling
