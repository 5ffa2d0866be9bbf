"""Small stages, and rewards that tell samples of an untrained policy apart."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import sharding_context
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.rewards.base import rewards
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run import optim_config
from corl_jax.stages.setup import build_setup


@pytest.fixture(scope="session", autouse=True)
def telling_rewards():
    """``redness`` of a picture and ``letters`` of a text, which differ from sample to sample; ``tens``, which often are
    the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "_items", dict(rewards._items))
        rewards.register("redness")(
            lambda cs, context: np.array([c.pixels[..., 0].mean() / 255 for c in cs])
        )
        rewards.register("letters")(lambda cs, context: np.array([len(c.text) / 10 for c in cs]))
        rewards.register("tens")(
            lambda cs, context: np.array([round(len(c.text) / 10) for c in cs])
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Programs that several tests compile are compiled once, unless a folder for them was chosen already."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@dataclasses.dataclass(frozen=True)
class Step:
    """An RL stage after its first rollouts. ``run`` applies updates to a fresh state."""

    config: dict
    stage: RlStage
    raw: dict
    rollouts: dict
    batches: list
    host: dict
    optimizer: object

    def run(self, microbatches=1, times=1):
        """State after updates, and the metrics of each."""
        with sharding_context(self.stage.parts.sharder):
            update = make_update(self.stage.loss, self.stage.after, self.optimizer, microbatches)
            state, said = self.stage.init(), []
            for _ in range(times):
                state, metrics = update(state, self.batches[0])
                said.append({name: float(metric.value) for name, metric in metrics.items()})
        return state, said


@pytest.fixture(scope="session")
def rl_config(small_config):
    """The unified config with rewards that differ, a KL that begins above 0, and an optimiser that does not magnify
    rounding (a large epsilon)."""

    def make(image="redness", text="letters", **overrides):
        config = small_config(
            "unified", **{"optim.eps": 1e-3, "optim.learning_rate": 1e-2} | overrides
        )
        config["rewards"] = {"image": {image: 1.0}, "text": {text: 1.0}}
        return config

    return make


@pytest.fixture(scope="session")
def take_step(rl_config, small_world):
    """A function from overrides to a ``Step``; ``devices`` of a mesh."""

    def make(devices=1, **overrides):
        config = rl_config(**overrides)
        with small_world(devices):
            parts = build_setup(config)
            optimizer = make_optimizer(optim_config(config))
            stage = RlStage(config, parts, optimizer)
            rollouts, sample = {}, stage.rollouts.sample

            def watched(params, task, *rest):
                rollout = sample(params, task, *rest)
                rollouts.setdefault(task, rollout)
                return rollout

            stage.rollouts.sample = watched
            with sharding_context(parts.sharder):
                state, raw = stage.init(), next(stage.data())
                pairs = list(stage.batches(state, raw, 0))
        return Step(
            config, stage, raw, rollouts, [batch for batch, _ in pairs], pairs[0][1], optimizer
        )

    return make


@pytest.fixture(scope="session")
def first(take_step):
    """The first step of the plain small config."""
    return take_step()
