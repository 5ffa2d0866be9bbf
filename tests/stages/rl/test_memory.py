"""The update of both tasks holds logits of a chunk of tokens, never of all of them."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.trees import partition
from corl_jax.core.types import PolicyBatch, Prompts
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.engine.update import make_update
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.language_model import DecoderConfig
from corl_jax.objectives.kl import KlState
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.rl.config import read_settings
from corl_jax.stages.rl.loss import policy_loss

VOCAB, PROMPTS, GROUP, LENGTH = 2048, 4, 2, 12
LOGITS = PROMPTS * GROUP * LENGTH * VOCAB
HEADS = JanusConfig(  # whose logits are nearly all there is
    VisionConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, mlp_dim=16),
    DecoderConfig(
        vocab_size=VOCAB,
        width=16,
        depth=1,
        heads=2,
        kv_heads=2,
        head_size=8,
        mlp_dim=16,
        max_length=64,
    ),
    ImageTokenizerConfig(VOCAB, 8, 32, 32, (1, 1, 1, 1), 0),
    gen_head_dim=16,
)


def batch_of(rng):
    """Left-padded prompts and completions of both tasks, as if they had been drawn and scored."""

    def part():
        mask = np.arange(5)[None] >= rng.integers(0, 3, (PROMPTS, 1))
        shape = (PROMPTS, GROUP, LENGTH)
        return PolicyBatch(
            prompts=Prompts(np.where(mask, rng.integers(3, VOCAB, mask.shape), 0), mask),
            tokens=rng.integers(3, VOCAB, shape),
            mask=np.ones(shape, bool),
            sampler_log_probs=np.full(shape, -8, np.float32),
            old_log_probs=None,
            ref_log_probs=np.full(shape, -8, np.float32),
            advantages=rng.normal(size=shape[:2]).astype(np.float32),
            weights=np.full(shape, 1 / np.prod(shape), np.float32),
        )

    return {"image": part(), "text": part()}


@pytest.fixture(scope="module")
def program(small_config, random_params):
    """A function from ``rl.score_chunk`` to the compiled update, and what it is given."""
    model = abstract(HEADS)
    sampler = PolicyFns(nnx.split(model)[0], HEADS, SpecialTokenIds(0, 1, 2, (0, 2)))
    optimizer = make_optimizer(OptimConfig(1e-2, 1, eps=1e-3))
    trainable, frozen = partition(
        jax.tree.map(jnp.asarray, random_params(model)), ("language_model/*", "gen_head/*")
    )
    coefs = {task: KlState(jnp.float32(0.1), jnp.int32(0)) for task in ("image", "text")}
    state = create_state(trainable, frozen, optimizer, coefs)
    given = dataclasses.replace(state, frozen={}), state.frozen, batch_of(np.random.default_rng(0))

    def compile_(chunk):
        settings = read_settings(small_config("unified", **{"rl.score_chunk": chunk}), 1)
        update = make_update(
            lambda params, batch, algo: policy_loss(sampler, settings, params, batch, algo),
            lambda algo, metrics: algo,
            optimizer,
        )
        return (
            jax.jit(update._run).lower(*given).compile({"xla_backend_optimization_level": 0})
        )  # compiles faster

    return compile_, given


def largest(compiled):
    """Elements of the largest array in the optimised program."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes)


def test_the_update_is_the_same_without_logits_of_all_tokens(program):
    compile_, given = program
    plain, cut = compile_(0), compile_(5)
    assert largest(cut) < LOGITS <= largest(plain)
    peaks = [one.memory_analysis().temp_size_in_bytes for one in (plain, cut)]
    assert peaks[1] < 0.6 * peaks[0]
    (want, said), (found, also_said) = plain(*given), cut(*given)
    for name, metric in said.items():
        assert float(also_said[name].value) == pytest.approx(float(metric.value), rel=1e-5), name
    for path, leaf in want.trainable.items():
        moved = np.abs(np.asarray(leaf) - np.asarray(given[0].trainable[path])).max()
        np.testing.assert_allclose(
            found.trainable[path], leaf, atol=1e-4 * max(moved, 1e-3), err_msg=path
        )


@pytest.mark.parametrize("tasks", [(), ("text",), ("image", "text")])
def test_prompts_are_shared_for_the_tasks_that_are_named(small_config, tasks):
    settings = read_settings(small_config("unified", **{"rl.shared_prefix": tasks}), 1)
    assert {task for task in ("image", "text") if settings.scoring(task)["shared_prefix"]} == set(
        tasks
    )


def test_a_sampler_in_eight_bits_is_scored_by_the_policy_itself(take_step):
    """The mismatch shows it; ratios are against the scorer's own log-probs, so they begin at 1."""
    light = {"rl.rollout_weights": "int8", "rl.rollout_cache": "int8"}
    step = take_step(**{"rl.pictures": 0, "updates_per_step": 2} | light)
    gap = np.abs(
        np.asarray(
            step.batches[0]["text"].old_log_probs - step.batches[0]["text"].sampler_log_probs
        )
    )
    _, (said,) = step.run()
    assert said["text/ratio"] == pytest.approx(1, abs=1e-5) and said["text/clip_fraction"] == 0
    mask = np.asarray(step.batches[0]["text"].mask)
    assert (
        said["text/sampler_logp_diff"] == pytest.approx(gap[mask].mean(), rel=1e-3)
        and 1e-4 < said["text/sampler_logp_diff"] < 0.3
    )
