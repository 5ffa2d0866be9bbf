"""Scoring in chunks of tokens: the same numbers and gradients, and logits of a chunk alone in memory."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.per_device import batch_axes_spec
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.objectives.sampling_distribution import (
    SamplingParams,
    entropy,
    log_distribution,
    token_log_probs,
)
from corl_jax.sampling.log_probs import map_in_chunks

PROMPTS, GROUP, LENGTH, WIDTH = 8, 2, 12, 16
ROWS, FLOAT = PROMPTS * GROUP, 4


def loss(found):
    """A sum in which every log-prob and entropy has a weight of its own."""
    log_probs, entropies = found
    weights = jnp.sin(jnp.arange(log_probs.size, dtype=jnp.float32)).reshape(log_probs.shape)
    return jnp.sum(weights * (log_probs + 0.3 * entropies)), found


def bare(chunk):
    """``(head, (states, tokens)) -> gradients, (log-probs, entropies)`` of a head alone."""

    def read(head, rows):
        states, tokens = rows
        log_probs = log_distribution(states @ head, None, SamplingParams())
        return token_log_probs(log_probs, tokens), entropy(log_probs)

    def run(head, states, tokens):
        return loss(
            map_in_chunks(read, head, (states, tokens), chunk, batch_axes_spec(("embed", "vocab")))
        )

    return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))


def head_and_states(vocab):
    """Arguments of ``bare``."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(WIDTH, vocab)).astype(np.float32)
    states = rng.normal(size=(PROMPTS, GROUP, LENGTH, WIDTH)).astype(np.float32)
    return head, states, rng.integers(0, vocab, (PROMPTS, GROUP, LENGTH))


def agree(want, found):
    """Every leaf within 1e-6 of its own size."""
    for (path, one), (_, other) in zip(
        *map(jax.tree_util.tree_leaves_with_path, (want, found)), strict=True
    ):
        limit = 1e-6 * max(1, float(np.abs(one).max()))
        np.testing.assert_allclose(
            other, one, rtol=0, atol=limit, err_msg=jax.tree_util.keystr(path)
        )


def temporary(compiled):
    """Bytes that a program needs beside what goes in and comes out."""
    return compiled.memory_analysis().temp_size_in_bytes


def test_any_chunk_gives_the_same_values_and_gradients():
    given = head_and_states(50)
    want = bare(0)(*given)
    for chunk in (1, 5, LENGTH - 1, LENGTH, 99):
        agree(want, bare(chunk)(*given))


def test_memory_grows_with_the_chunk_and_not_with_the_vocabulary():
    """Beyond a few arrays of the size of the head there are a few of the size of a chunk's logits, and no more."""
    small, large = 2048, 16384
    peak = {
        (vocab, chunk): temporary(bare(chunk).lower(*head_and_states(vocab)).compile())
        for vocab in (small, large)
        for chunk in (1, 4, 0)
    }
    for vocab in (small, large):
        one = ROWS * vocab * FLOAT
        assert 3 * one < peak[vocab, 4] - peak[vocab, 1] < 6 * 3 * one
        assert peak[vocab, 0] > LENGTH * one
    more = (large - small) * FLOAT
    assert (
        peak[large, 1] - peak[small, 1] < 4 * WIDTH * more + 4 * ROWS * more < LENGTH * ROWS * more
    )


def test_gradients_of_a_half_precision_head_add_up_in_float32():
    """Each of 600 chunks adds 1, which bfloat16 would count to 256."""
    states = jnp.ones((1, 1, 600, 1))

    def total(head):
        read = lambda head, rows: (rows[0].astype(jnp.bfloat16) @ head.astype(jnp.bfloat16))[..., 0]  # noqa: E731
        return jnp.sum(
            map_in_chunks(read, head, (states,), 1, batch_axes_spec(())), dtype=jnp.float32
        )

    assert float(jax.grad(total)(jnp.ones((1, 1)))[0, 0]) == 600


@pytest.mark.parametrize("data, fsdp, tensor", [(2, 2, 2), (2, 4, 1), (1, 8, 1)])
def test_eight_devices_gather_the_head_once_and_add_up_its_gradient_once(data, fsdp, tensor):
    """Not once per chunk; and rows that do not divide over the devices are read all the same.

    Groups of devices that each hold the whole head keep their own rows of the gradient, and sum only those.
    """
    sharder = Sharder(make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}))
    given = head_and_states(64)
    places = (
        sharder.named_sharding("embed", "vocab"),
        sharder.named_sharding("batch"),
        sharder.named_sharding("batch"),
    )
    with sharding_context(sharder):
        run = jax.jit(bare(3), in_shardings=places, out_shardings=(places[:2], None))
        text = run.lower(*given).compile().as_text()
        agree(bare(0)(*given), run(*given))
        few = given[0], given[1][:3, :1], given[2][:3, :1]
        agree(bare(0)(*few), bare(5)(*few))
    entry, columns = text[text.index("\nENTRY") :], 64 // tensor
    groups = data > 1 and tensor == 1
    share = (
        {"reduce-scatter": WIDTH // fsdp, "all-reduce": WIDTH // fsdp}
        if groups
        else {"all-reduce": WIDTH}
    )
    for kind, rows in {"all-gather": WIDTH, **share}.items():
        of_the_head = rf"= f32\[{rows},{columns}\]\S* {kind}\("
        assert len(re.findall(of_the_head, text)) == len(re.findall(of_the_head, entry)) == 1, kind
    of_the_head = rf"= f32\[\d+,{columns}\]\S* (?:all-gather|all-reduce|reduce-scatter)\("
    assert len(re.findall(of_the_head, text)) == 1 + len(share)
