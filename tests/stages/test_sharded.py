"""A step spread over eight devices is the step of one: rollouts, scores and updates of both trainable stages.

Tokens are equal and every number is within 1e-5, in float32. Two things that magnify rounding are kept out of the way:
a pixel on the edge between two bytes may come out one level redder, which the standard deviation of a group turns into
2e-5 of an advantage, so pictures are rewarded in whole hundredths; and Adam makes a full step, either way, of a
gradient that is nothing but rounding, so its epsilon is above that (1e-3, as in ``rl_config``).
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

from corl_jax.core.sharding import sharding_context
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig
from corl_jax.rewards.base import rewards
from corl_jax.stages.run import STAGES, optim_config
from corl_jax.stages.setup import build_setup

ROWS, WIDTH, MLP, LAYERS = 8, 64, 96, 2
LENGTH = {"rl": 64 + 2 * 3, "sft": 64 + 16 - 1}
"""Positions of a row in an update, a question with all its answers or with one; no other axis has this size."""
KERNEL = "language_model/layers/down_proj/kernel"
CASES = [("rl", (2, 2, 2)), ("rl", (1, 8, 1)), ("sft", (1, 2, 4))]
"""Stage and mesh (data, fsdp, tensor)."""


@dataclasses.dataclass(frozen=True)
class Ran:
    """Two steps of training: what each update was given and said, the state after both, and the update's program."""

    batches: list
    metrics: list
    host: list
    state: Any
    program: str


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """The same partitioning with little effort spent on machine code, which halves the time of this file."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def policy(write_policy):
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
    codes = ImageTokenizerConfig(32, 8, 32, 32, (1, 1, 1, 1), 0)
    return write_policy(JanusConfig(vision, decoder, codes, gen_head_dim=WIDTH), "octo")


@pytest.fixture(scope="module")
def train(rl_config, small_config, small_world, policy):
    """A function from a stage and a mesh to what the first two steps did."""

    def config(name, mesh):
        changes = {
            f"mesh.{axis}": size
            for axis, size in zip(("data", "fsdp", "tensor"), mesh, strict=True)
        }
        changes |= {"model.unroll": 1, "optim.eps": 1e-3, "optim.learning_rate": 1e-2}
        if name == "sft":
            changes |= {"init_from": str(policy), "batch_size": ROWS, "sft.understanding_rows": ROWS}
            return small_config("sft", **changes)
        plain = rl_config(policy=policy, **changes)
        return plain | {"rewards": {"image": {"reddish": 1.0}, "text": {"letters": 1.0}}}

    @functools.cache
    def go(name, mesh=(1, 1, 1)):
        ran, plain = Ran([], [], [], None, ""), config(name, mesh)
        with small_world(math.prod(mesh)):
            parts = build_setup(plain)
            stage = STAGES[name](plain, parts, make_optimizer(optim_config(plain)))
            update = make_update(stage.loss, stage.update_algo_state, stage.optimizer)
            with sharding_context(parts.sharder):
                state, data = stage.init_state(), stage.data_iterator()
                for step in range(2):
                    for batch, host in stage.batches(state, next(data), step):
                        state, metrics = update(state, batch)
                        ran.batches.append(batch)
                        ran.metrics.append(
                            {name: float(metric.value) for name, metric in metrics.items()}
                        )
                        ran.host.append(host)
                moving = dataclasses.replace(state, frozen={})
                program = update._jitted.lower(moving, state.frozen, batch).compile().as_text()
        return dataclasses.replace(ran, state=state, program=program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "_entries", dict(rewards._entries))
        rewards.register("reddish")(
            lambda cs, _: np.array([round(c.pixels[..., 0].mean() / 255, 2) for c in cs])
        )
        yield go


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_eight_devices_train_as_one(train, name, mesh):
    one, eight = train(name), train(name, mesh)
    for alone, spread in zip(one.batches, eight.batches, strict=True):
        for (path, left), right in zip(
            jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(spread), strict=True
        ):
            assert len(right.sharding.device_set) == 8
            exact = not np.issubdtype(
                left.dtype, np.floating
            )  # tokens, masks, pictures that are asked about
            np.testing.assert_allclose(
                left, right, rtol=0, atol=0 if exact else 1e-5, err_msg=str(path)
            )
    for alone, spread in zip(one.metrics + one.host, eight.metrics + eight.host, strict=True):
        assert alone == pytest.approx(spread, rel=1e-5, abs=1e-5)
    for path, left in one.state.trainable.items():
        np.testing.assert_allclose(
            left, eight.state.trainable[path], rtol=0, atol=1e-5, err_msg=path
        )
    for left, right in zip(moments(one), moments(eight), strict=True):
        assert norm(
            jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), left, right)
        ) < 1e-5 * norm(left)
    assert one.metrics[1]["grad_norm"] > 0.01 and one.metrics[0]["loss"] != one.metrics[1]["loss"]
    if (
        name == "rl"
    ):  # what is compared is alive: rewards differ, and the policy has left its reference
        assert one.host[0]["image/reward_std"] > 0.01 and one.host[0]["text/reward_std"] > 0.1
        assert one.metrics[1]["image/kl"] > 1e-4 and one.metrics[1]["text/kl"] > 1e-4


@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_work_and_memory_are_spread(train, name, mesh):
    """Each device holds its share of parameters and moments, computes its share of rows and features, and only what its
    mesh asks for is sent: gradients added up, and under ``fsdp`` weights gathered."""
    (data, fsdp, tensor), ran = mesh, train(name, mesh)
    for tree in (ran.state.trainable, *moments(ran)):
        assert tree[KERNEL].addressable_shards[0].data.size == tree[KERNEL].size // (fsdp * tensor)
    rows = ROWS // (data * fsdp)
    assert all(
        leaf.addressable_shards[0].data.shape[0] == rows for leaf in jax.tree.leaves(ran.batches[0])
    )
    hidden = re.findall(rf"f32\[(\d+),{LENGTH[name]},({MLP}|{MLP // 2}|{MLP // 4})\]", ran.program)
    layers = (
        {(str(LAYERS), str(MLP // tensor))} if rows == 1 else set()
    )  # kept of all, an axis of one row left out
    assert set(hidden) - layers == {(str(rows), str(MLP // tensor))}
    gathered = rf"f32\[(?:1,)?{WIDTH},{MLP // tensor}\]\S* all-gather"  # of one layer, taken from the stack
    assert (re.search(gathered, ran.program) is not None) == (fsdp > 1)
    assert re.search(r" all-reduce(-start)?\(", ran.program)


def moments(ran):
    """Adam's two, by path of the parameter."""
    adam = next(part for part in ran.state.opt_state if hasattr(part, "mu"))
    return adam.mu, adam.nu


def norm(tree):
    return math.sqrt(
        sum(
            float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in jax.tree.leaves(tree)
        )
    )
