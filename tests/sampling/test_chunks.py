"""Log-probs in chunks of tokens: the same numbers and gradients, with logits of one chunk only."""

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
ROWS, FLOAT_BYTES = PROMPTS * GROUP, 4


def loss(outputs):
    """A sum in which every log-prob and entropy has another weight, and ``outputs`` themselves."""
    log_probs, entropies = outputs
    weights = jnp.sin(jnp.arange(log_probs.size, dtype=jnp.float32)).reshape(log_probs.shape)
    return jnp.sum(weights * (log_probs + 0.3 * entropies)), outputs


def make_head_program(chunk_length):
    """``(head, states, tokens) -> gradients, (log-probs, entropies)`` of a head by itself."""

    def read_tokens(head, rows):
        states, tokens = rows
        log_probs = log_distribution(states @ head, None, SamplingParams())
        return token_log_probs(log_probs, tokens), entropy(log_probs)

    def run(head, states, tokens):
        specs = batch_axes_spec(("embed", "vocab"))
        return loss(map_in_chunks(read_tokens, head, (states, tokens), chunk_length, specs))

    return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))


def random_args(vocab_size):
    """Head, states and tokens."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(WIDTH, vocab_size)).astype(np.float32)
    states = rng.normal(size=(PROMPTS, GROUP, LENGTH, WIDTH)).astype(np.float32)
    return head, states, rng.integers(0, vocab_size, (PROMPTS, GROUP, LENGTH))


def assert_close_trees(tree, expected_tree):
    """Every leaf is within 1e-6 of its largest number."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    expected_leaves = jax.tree_util.tree_leaves_with_path(expected_tree)
    for (path, leaf), (_, expected) in zip(leaves, expected_leaves, strict=True):
        atol = 1e-6 * max(1, float(np.abs(expected).max()))
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=atol, err_msg=name)


def temporary_bytes(compiled):
    """Memory that a program needs beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def test_any_chunk_gives_the_same_values_and_gradients():
    args = random_args(50)
    expected = make_head_program(0)(*args)
    for chunk_length in (1, 5, LENGTH - 1, LENGTH, 99):
        assert_close_trees(make_head_program(chunk_length)(*args), expected)


def test_memory_grows_with_the_chunk_and_not_with_the_vocabulary():
    """A few arrays of the size of the head, and a few of the size of a chunk's logits."""
    small, large = 2048, 16384
    peak = {}
    for vocab_size in (small, large):
        for chunk_length in (1, 4, 0):
            program = make_head_program(chunk_length).lower(*random_args(vocab_size))
            peak[vocab_size, chunk_length] = temporary_bytes(program.compile())

    for vocab_size in (small, large):
        logits_of_position = ROWS * vocab_size * FLOAT_BYTES
        difference = peak[vocab_size, 4] - peak[vocab_size, 1]
        assert 3 * logits_of_position < difference < 6 * 3 * logits_of_position
        assert peak[vocab_size, 0] > LENGTH * logits_of_position

    more_words = (large - small) * FLOAT_BYTES
    limit = 4 * WIDTH * more_words + 4 * ROWS * more_words
    assert peak[large, 1] - peak[small, 1] < limit < LENGTH * ROWS * more_words


def test_gradients_of_a_half_precision_head_add_up_in_float32():
    """Each of 600 chunks adds 1; bfloat16 would stop at 256."""
    states = jnp.ones((1, 1, 600, 1))

    def read_states(head, rows):
        return (rows[0].astype(jnp.bfloat16) @ head.astype(jnp.bfloat16))[..., 0]

    def total(head):
        values = map_in_chunks(read_states, head, (states,), 1, batch_axes_spec(()))
        return jnp.sum(values, dtype=jnp.float32)

    assert float(jax.grad(total)(jnp.ones((1, 1)))[0, 0]) == 600


@pytest.mark.parametrize("data, fsdp, tensor", [(2, 2, 2), (2, 4, 1), (1, 8, 1)])
def test_eight_devices_gather_the_head_once_and_add_up_its_gradient_once(data, fsdp, tensor):
    """Not once per chunk. Rows that do not divide over the devices give the same numbers too.

    Where groups of devices each hold the whole head, a device keeps its rows of the gradient, and
    only those are summed over the groups.
    """
    sharder = Sharder(make_mesh({"data": data, "fsdp": fsdp, "tensor": tensor}))
    head, states, tokens = args = random_args(64)
    head_sharding = sharder.named_sharding("embed", "vocab")
    batch_sharding = sharder.named_sharding("batch")
    in_shardings = (head_sharding, batch_sharding, batch_sharding)
    with sharding_context(sharder):
        run = jax.jit(
            make_head_program(3),
            in_shardings=in_shardings,
            out_shardings=(in_shardings[:2], None),
        )
        text = run.lower(*args).compile().as_text()
        assert_close_trees(run(*args), make_head_program(0)(*args))
        few_rows = head, states[:3, :1], tokens[:3, :1]
        assert_close_trees(make_head_program(5)(*few_rows), make_head_program(0)(*few_rows))

    # Each collective of the head's shape occurs once, and outside the loop over chunks.
    entry = text[text.index("\nENTRY") :]
    columns = 64 // tensor
    rows_of_collective = {"all-gather": WIDTH}
    if data > 1 and tensor == 1:
        rows_of_collective |= {"reduce-scatter": WIDTH // fsdp, "all-reduce": WIDTH // fsdp}
    else:
        rows_of_collective |= {"all-reduce": WIDTH}
    for kind, rows in rows_of_collective.items():
        collective = rf"= f32\[{rows},{columns}\]\S* {kind}\("
        assert len(re.findall(collective, text)) == len(re.findall(collective, entry)) == 1, kind
    any_collective = rf"= f32\[\d+,{columns}\]\S* (?:all-gather|all-reduce|reduce-scatter)\("
    assert len(re.findall(any_collective, text)) == len(rows_of_collective)
