"""Small runs of reinforcement learning, and their first steps."""

from __future__ import annotations

import dataclasses

import pytest
from helpers import apply_update

from corl_jax.core.sharding import sharding_context
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.setup import build_setup
from corl_jax.stages.whole_config import optim_config


@pytest.fixture(scope="session", autouse=True)
def always_varied_rewards(varied_rewards):
    """Every test of stages may name ``varied_rewards`` in its config."""


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """An RL stage after its first step up to the update.

    Attributes:
      config: plain values.
      stage: with the rollouts of the step.
      raw: what the data iterator gave for the step.
      prompts: task to its prompts, on the mesh.
      rollouts: task to its rollout, on the mesh.
      batches: of the updates.
      host_metrics: of the first batch.
      optimizer: of the run.
    """

    config: dict
    stage: RlStage
    raw: dict
    prompts: dict
    rollouts: dict
    batches: list
    host_metrics: dict
    optimizer: object

    def run(self, microbatches=1, times=1):
        """Updates of a new state by the first batch: the last state, and the metrics of each."""
        stage = self.stage
        with sharding_context(stage.setup.sharder):
            state, metrics_of_updates = stage.init_state(), []
            update = make_update(
                stage.loss, stage.update_algo_state, self.optimizer, microbatches, state
            )
            for _ in range(times):
                state, metrics = apply_update(update, state, self.batches[0])
                metrics_of_updates.append(
                    {name: float(metric.value) for name, metric in metrics.items()}
                )
        return state, metrics_of_updates


@pytest.fixture(scope="session")
def rl_config(small_config):
    """A function from overrides to the unified config with rewards that differ between samples.

    A task has one reward, several joined by ``+``, or a dictionary from names to weights.
    Its KL coefficient starts above 0, and a large epsilon keeps Adam from magnifying rounding.
    """

    def make(image="redness", text="letters", **overrides):
        config = small_config(
            "unified", **{"optim.eps": 1e-3, "optim.learning_rate": 1e-2} | overrides
        )
        for task, names in (("image", image), ("text", text)):
            is_text = isinstance(names, str)
            config["rewards"][task] = dict.fromkeys(names.split("+"), 1.0) if is_text else names
        return config

    return make


@pytest.fixture(scope="session")
def take_step(rl_config, small_world):
    """A function from overrides to a ``FirstStep``, on a mesh of ``devices``."""

    def make(devices=1, **overrides):
        config = rl_config(**overrides)
        with small_world(devices):
            setup = build_setup(config)
            optimizer = make_optimizer(optim_config(config))
            stage = RlStage(config, setup, optimizer)

            # The first prompts and rollouts of each task are noted as they are sampled.
            prompts, rollouts = {}, {}
            sample_part = stage.rollout_sampler.sample_part

            def sample_and_note(params, task, batch, *rest):
                rollout = sample_part(params, task, batch, *rest)
                prompts.setdefault(task, batch)
                rollouts.setdefault(task, rollout)
                return rollout

            stage.rollout_sampler.sample_part = sample_and_note
            with sharding_context(setup.sharder):
                state, raw = stage.init_state(), next(stage.data_iterator())
                pairs = list(stage.batches(state, raw, 0))
        batches, host_metrics = [batch for batch, _ in pairs], pairs[0][1]
        return FirstStep(config, stage, raw, prompts, rollouts, batches, host_metrics, optimizer)

    return make


@pytest.fixture(scope="session")
def first(take_step):
    """The first step of the plain small config."""
    return take_step()
