"""Two steps on eight devices are the two steps of one device, in both stages that train a policy.

Tokens are equal and every number is within 1e-5, in float32. Two things that magnify rounding are
avoided. A pixel between two bytes may come out one level redder, which the standard deviation of a
group turns into 2e-5 of an advantage, so rewards of images are rounded to hundredths. Adam takes a
full step for a gradient that is nothing but rounding, so its epsilon is above that (1e-3, as in
``rl_config``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from helpers import apply_update, without_times

from corl_jax.core.sharding import sharding_context
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig
from corl_jax.stages.setup import build_setup
from corl_jax.stages.start_checks import STAGES
from corl_jax.stages.whole_config import optim_config

ROWS, WIDTH, MLP, LAYERS = 8, 64, 96, 2
LENGTHS = {"rl": 64 + 2 * 3, "sft": 64 + 16 - 1}
"""Stage to the positions of a row in its update, a question with all its answers or with one; no
other axis has this size."""
KERNEL = "language_model/layers/down_proj/kernel"
CASES = [("rl", (2, 2, 2)), ("rl", (1, 8, 1)), ("sft", (1, 2, 4))]
"""Stage and mesh (data, fsdp, tensor)."""


@dataclasses.dataclass(frozen=True)
class TwoSteps:
    """Two steps of training.

    Attributes:
      batches, metrics, host_metrics: of each update.
      state: after both.
      program: the optimized text of the update.
    """

    batches: list
    metrics: list
    host_metrics: list
    state: Any
    program: str


@pytest.fixture(scope="module")
def policy_folder(write_policy):
    """The smallest policy whose axes all divide by eight or four."""
    vision = VisionConfig(image_size=16, patch_size=8, width=WIDTH, depth=1, heads=4, mlp_dim=32)
    decoder = DecoderConfig(
        vocab_size=72,
        width=WIDTH,
        depth=LAYERS,
        heads=4,
        kv_heads=4,
        head_size=16,
        mlp_dim=MLP,
        max_length=128,
    )
    image_tokenizer = ImageTokenizerConfig(32, 8, 32, 32, (1, 1, 1, 1), 0)
    cfg = JanusConfig(vision, decoder, image_tokenizer, gen_head_dim=WIDTH)
    return write_policy(cfg, "divisible")


@pytest.fixture(scope="module")
def take_two_steps(rl_config, small_config, small_world, policy_folder):
    """A function from a stage and a mesh to ``TwoSteps``; each is computed once."""

    def config_of(name, mesh):
        changes = {
            f"mesh.{axis}": size
            for axis, size in zip(("data", "fsdp", "tensor"), mesh, strict=True)
        }
        changes |= {"model.unroll": 1, "optim.eps": 1e-3, "optim.learning_rate": 1e-2}
        if name == "rl":
            return rl_config(image="rounded_redness", policy=policy_folder, **changes)
        changes |= {"init_from": str(policy_folder)}
        changes |= {"batch_size": ROWS, "sft.understanding_rows": ROWS}
        return small_config("sft", **changes)

    @functools.cache
    def take(name, mesh=(1, 1, 1)):
        config = config_of(name, mesh)
        batches, metrics_of_updates, host_metrics_of_updates = [], [], []
        with small_world(math.prod(mesh)):
            setup = build_setup(config)
            stage = STAGES[name](config, setup, make_optimizer(optim_config(config)))
            with sharding_context(setup.sharder):
                state, data = stage.init_state(), stage.data_iterator()
                update = make_update(stage.loss, stage.update_algo_state, stage.optimizer, 1, state)
                for step in range(2):
                    for batch, host_metrics in stage.batches(state, next(data), step):
                        state, metrics = apply_update(update, state, batch)
                        batches.append(batch)
                        metrics_of_updates.append(
                            {name: float(metric.value) for name, metric in metrics.items()}
                        )
                        host_metrics_of_updates.append(without_times(host_metrics))
                compiled = update.lower(state.with_frozen({}), state.frozen, batch).compile()
        return TwoSteps(
            batches, metrics_of_updates, host_metrics_of_updates, state, compiled.as_text()
        )

    return take


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_eight_devices_train_as_one(take_two_steps, name, mesh):
    single, sharded = take_two_steps(name), take_two_steps(name, mesh)

    # Batches. Tokens, masks and the images of questions are exact.
    for expected_batch, batch in zip(single.batches, sharded.batches, strict=True):
        expected_leaves = jax.tree_util.tree_leaves_with_path(expected_batch)
        for (path, expected), leaf in zip(expected_leaves, jax.tree.leaves(batch), strict=True):
            assert len(leaf.sharding.device_set) == 8
            atol = 1e-5 if np.issubdtype(expected.dtype, np.floating) else 0
            np.testing.assert_allclose(leaf, expected, rtol=0, atol=atol, err_msg=str(path))

    # Metrics, parameters and moments.
    expected_metrics = single.metrics + single.host_metrics
    for expected, metrics in zip(
        expected_metrics, sharded.metrics + sharded.host_metrics, strict=True
    ):
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for path, expected in single.state.trainable.items():
        leaf = sharded.state.trainable[path]
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-5, err_msg=path)
    for expected, moment in zip(adam_moments(single), adam_moments(sharded), strict=True):
        difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), expected, moment)
        assert norm(difference) < 1e-5 * norm(expected)

    # What is compared is alive: rewards differ, and the policy has left its reference.
    metrics_1, metrics_2 = single.metrics
    assert metrics_2["grad_norm"] > 0.01 and metrics_1["loss"] != metrics_2["loss"]
    if name == "rl":
        assert single.host_metrics[0]["image/reward_std"] > 0.01
        assert single.host_metrics[0]["text/reward_std"] > 0.1
        assert metrics_2["image/kl"] > 1e-4 and metrics_2["text/kl"] > 1e-4


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_work_and_memory_are_spread(take_two_steps, name, mesh):
    """Each device has its part of parameters and moments and computes its rows and features.

    The devices exchange only what the mesh needs: sums of gradients, and under ``fsdp`` weights.
    """
    (data, fsdp, tensor), steps = mesh, take_two_steps(name, mesh)
    for tree in (steps.state.trainable, *adam_moments(steps)):
        assert tree[KERNEL].addressable_shards[0].data.size == tree[KERNEL].size // (fsdp * tensor)
    rows = ROWS // (data * fsdp)
    for leaf in jax.tree.leaves(steps.batches[0]):
        assert leaf.addressable_shards[0].data.shape[0] == rows

    # Hidden features: a device has its own rows and features alone.
    widths = f"{MLP}|{MLP // 2}|{MLP // 4}"
    hidden = set(re.findall(rf"f32\[(\d+),{LENGTHS[name]},({widths})\]", steps.program))
    if rows == 1:
        # Those of all layers, whose axis of one row is left out.
        hidden.discard((str(LAYERS), str(MLP // tensor)))
    assert hidden == {(str(rows), str(MLP // tensor))}

    # Weights are gathered layer by layer.
    layer = rf"f32\[(?:1,)?{WIDTH},{MLP // tensor}\]\S* all-gather"
    assert (re.search(layer, steps.program) is not None) == (fsdp > 1)
    assert re.search(r" all-reduce(-start)?\(", steps.program)


def adam_moments(steps):
    """First and second moments, by path of the parameter."""
    adam = next(part for part in steps.state.opt_state if hasattr(part, "mu"))
    return adam.mu, adam.nu


def norm(tree):
    """Euclidean norm of all leaves, in float64."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return math.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in leaves))
