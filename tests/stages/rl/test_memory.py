"""The update of both tasks holds logits of a chunk of tokens, never of all of them."""

from __future__ import annotations

import functools
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
from corl_jax.stages.rl.loss import policy_loss
from corl_jax.stages.rl.read_config import read_rl_config

VOCAB, PROMPTS, GROUP, LENGTH = 2048, 4, 2, 12
LOGITS = PROMPTS * GROUP * LENGTH * VOCAB
SIZES = JanusConfig(
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
"""A model whose logits are nearly all of its memory."""


def random_batch(rng):
    """Left-padded prompts and completions of both tasks, as if they had been sampled."""

    def task_part():
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

    return {"image": task_part(), "text": task_part()}


@pytest.fixture(scope="module")
def compile_update(small_config, random_params):
    """A function from ``rl.log_probs.chunk_length`` to the compiled update, and its arguments."""
    model = abstract(SIZES)
    policy = PolicyFns(nnx.split(model)[0], SIZES, SpecialTokenIds(0, 1, 2, (0, 2)))
    optimizer = make_optimizer(OptimConfig(1e-2, 1, eps=1e-3))
    trainable, frozen = partition(
        jax.tree.map(jnp.asarray, random_params(model)), ("language_model/*", "gen_head/*")
    )
    algo = {task: KlState(jnp.float32(0.1), jnp.int32(0)) for task in ("image", "text")}
    state = create_state(trainable, frozen, optimizer, algo)
    args = state.with_frozen({}), state.frozen, random_batch(np.random.default_rng(0))

    def compile_for(chunk_length):
        cfg = read_rl_config(
            small_config("unified", **{"rl.log_probs.chunk_length": chunk_length}), 1
        )
        loss = functools.partial(policy_loss, policy, cfg)
        update = make_update(loss, lambda algo, metrics: algo, optimizer, 1, state)
        # Little effort spent on machine code compiles faster.
        return update.lower(*args).compile({"xla_backend_optimization_level": 0})

    return compile_for, args


def largest_array(compiled):
    """Elements of the largest array in the optimized program."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes)


def test_the_update_is_the_same_without_logits_of_all_tokens(compile_update):
    compile_for, args = compile_update
    unchunked, chunked = compile_for(0), compile_for(5)
    assert largest_array(chunked) < LOGITS <= largest_array(unchunked)
    peaks = [program.memory_analysis().temp_size_in_bytes for program in (unchunked, chunked)]
    assert peaks[1] < 0.6 * peaks[0]

    # An update donates the state, so each gets a copy.
    def run(program):
        state, *rest = args
        return program(jax.tree.map(jnp.copy, state), *rest)

    (expected_state, expected_metrics), (state, metrics) = run(unchunked), run(chunked)
    for name, expected in expected_metrics.items():
        value = float(metrics[name].value)
        assert value == pytest.approx(float(expected.value), rel=1e-5), name
    for path, expected in expected_state.trainable.items():
        change = np.abs(np.asarray(expected) - np.asarray(args[0].trainable[path])).max()
        atol = 1e-4 * max(change, 1e-3)
        np.testing.assert_allclose(state.trainable[path], expected, atol=atol, err_msg=path)


@pytest.mark.parametrize("tasks", [(), ("text",), ("image", "text")])
def test_prompts_are_shared_for_the_tasks_that_are_named(small_config, tasks):
    cfg = read_rl_config(small_config("unified", **{"rl.log_probs.shared_prefix": tasks}), 1)
    shared = {task for task in ("image", "text") if cfg.log_prob_options(task).shared_prefix}
    assert shared == set(tasks)


def test_log_probs_of_an_int8_sampler_are_those_of_the_policy(take_step):
    """Ratios compare log-probs of the policy and start at 1; ``sampler_logp_diff`` compares the
    sampler's with them."""
    step = take_step(
        **{
            "rl.rollout.image_prompts": 0,
            "updates_per_step": 2,
            "rl.rollout.weights_dtype": "int8",
            "rl.rollout.cache_dtype": "int8",
        }
    )
    part = step.batches[0]["text"]
    difference = np.abs(np.asarray(part.old_log_probs - part.sampler_log_probs))
    _, (metrics,) = step.run()

    assert metrics["text/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["text/clip_fraction"] == 0
    mask = np.asarray(part.mask)
    sampler_logp_diff = metrics["text/sampler_logp_diff"]
    assert sampler_logp_diff == pytest.approx(difference[mask].mean(), rel=1e-3)
    assert 1e-4 < sampler_logp_diff < 0.3
