"""Text of fewer and fewer rows is, token by token, text of all rows to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax import Policy
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.models.int8 import quantize_int8
from corl_jax.models.janus.model import abstract
from corl_jax.objectives.sampling_distribution import (
    log_distribution,
    sample_tokens,
    token_log_probs,
)
from corl_jax.sampling import decode, decode_text, row_levels
from corl_jax.sampling.row_levels import Level, plan_levels

LENGTH, SEGMENT = 24, 12


@pytest.fixture(scope="module")
def policy(dot_policy_folder):
    """An untrained policy of two small layers."""
    return Policy.load(dot_policy_folder, dtype="float32")


@pytest.fixture(scope="module")
def make_prompts(policy):
    """A function from a number to as many questions of several lengths about random images."""

    def make(count):
        rng = np.random.default_rng(0)
        texts = [f"is there a {'red ' * (i % 3)}circle?" for i in range(count)]
        rows = [policy.tokenizer.question_prompt(text, policy.cfg.image_tokens) for text in texts]
        side = policy.cfg.image_size
        images = rng.uniform(-1, 1, (count, side, side, 3)).astype(np.float32)
        return Prompts(*left_pad(rows, policy.tokenizer.pad_id), images)

    return make


@pytest.fixture
def short_segments(monkeypatch):
    """Levels for short texts of few rows: 16, 8 and 4 rows with 2, 1 and 1 windows."""
    monkeypatch.setattr(row_levels, "SEGMENT", SEGMENT)
    monkeypatch.setattr(row_levels, "MIN_ROWS", 4)


@dataclasses.dataclass(frozen=True)
class MadeLengths:
    """Samples as ever, but a row has the end token where its made length says, and only there."""

    keys: jax.Array
    lengths: jax.Array
    eos: int

    def step_keys(self, keys, step):
        return keys, step

    def sample_tokens(self, keys_and_step, distribution, sampling):
        keys, step = keys_and_step
        distribution = distribution.at[:, self.eos].set(-1e30)
        tokens, _ = sample_tokens(decode.step_keys(keys, step), distribution, sampling)

        # A row is known by its key, wherever it is.
        data, all_data = jax.random.key_data(keys), jax.random.key_data(self.keys)
        is_row = jnp.all(data[:, None] == all_data[None], -1)
        length = jnp.sum(jnp.where(is_row, self.lengths, 0), 1)
        tokens = jnp.where(step + 1 == length, self.eos, tokens)
        return tokens, token_log_probs(distribution, tokens)


def decode_all_rows(model, prompts, keys, sampling, ids, length, made):
    """One loop over all rows that reads the whole cache, until all have ended."""
    rows, keys = keys.size, keys.reshape(-1)
    states, cache, prefilled = decode.prefill(
        model, prompts, rows // len(prompts.tokens), ids.image
    )
    cache = decode.reserve(cache, prefilled.prompt_mask.shape[1], length)

    def one_token(carry):
        step, states, cache, done, tokens, log_probs = carry
        distribution = log_distribution(model.text_logits(states), None, sampling)
        sampled, sampled_log_probs = made.sample_tokens((keys, step), distribution, sampling)
        sampled = jnp.where(done, ids.pad, sampled)
        tokens = tokens.at[:, step].set(sampled)
        log_probs = log_probs.at[:, step].set(jnp.where(done, 0, sampled_log_probs))
        x = model.embed_text(sampled)
        states, cache = decode.decode_step(model, prefilled, x, cache, step, length)
        return step + 1, states, cache, done | (sampled == ids.eos), tokens, log_probs

    tokens, log_probs = jnp.full((rows, length), ids.pad), jnp.zeros((rows, length))
    carry = jnp.int32(0), states, cache, jnp.zeros(rows, bool), tokens, log_probs
    carry = jax.lax.while_loop(
        lambda carry: (carry[0] < length) & ~jnp.all(carry[3]), one_token, carry
    )
    return carry[4], carry[5]


def compile_programs(policy, args, form, sharder=None):
    """Compiled ``decode_text`` and ``decode_all_rows``, functions of parameters and the rest.

    Args:
      args: parameters, prompts, keys; keys again and lengths, which all devices have.
      form: ``stack``, ``cpu`` (layers one by one, a cache that grows), ``gpu_int8`` (one by one, an
        int8 cache that is made once).
      sharder: of the rows, which are sharded already.
    """
    unroll = policy.cfg.decoder.depth if form == "cpu" else 1
    model = abstract(policy.cfg, unroll=unroll, separate_decoding=form == "gpu_int8")
    graphdef, ids = nnx.split(model)[0], policy.fns.ids
    sampling = policy.fns.sampling_params("text")

    def bound(params):
        model = bind(graphdef, params)
        return quantize_int8(model, weights=False, cache=True) if form == "gpu_int8" else model

    # A stack is not planned to lose rows, but can.
    shards = sharder.batch_shards if sharder else 1
    levels = plan_levels(args[2].size // shards, LENGTH - 1)

    def by_levels(params, prompts, keys, all_keys, lengths):
        made = MadeLengths(all_keys.reshape(-1), lengths, ids.eos)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decode_text, "step_keys", made.step_keys)
            patch.setattr(decode_text, "sample_tokens", made.sample_tokens)
            return decode_text.decode_text(
                bound(params), prompts, keys, sampling, ids, LENGTH, levels
            )

    def all_rows(params, prompts, keys, all_keys, lengths):
        made = MadeLengths(all_keys.reshape(-1), lengths, ids.eos)
        return decode_all_rows(bound(params), prompts, keys, sampling, ids, LENGTH, made)

    with sharding_context(sharder) if sharder else contextlib.nullcontext():
        return tuple(jax.jit(fn).lower(*args).compile() for fn in (by_levels, all_rows))


def made_lengths(seed, rows):
    """Lengths of a long tail, or by the first seeds such ends as are hard; 99 never ends."""
    row = np.arange(rows)
    special = [
        np.where(row == 5, 99, 2),  # one row never ends
        np.full(rows, 7),  # all end at once
        np.full(rows, 1),  # at the first token
        np.full(rows, 99),  # none ends
        1 + row[::-1],  # one after the other
        np.where(row % 4 < 2, 3, LENGTH),  # half of every prompt; the limit is an end
        np.where(row < 4, 20, 5),  # one prompt alone
    ]
    tail = 1 + np.random.default_rng(seed).geometric(0.15, rows)
    return special[seed] if seed < len(special) else tail


def check_tokens(policy, prompts, group_size, form, tolerance, sharder=None):
    """Tokens of many seeds are those of all rows; returns the text of the program."""
    rows = len(prompts.tokens) * group_size

    def args_of(seed):
        keys = sample_keys(stream(seed, "test", 0), rows).reshape(-1, group_size)
        lengths = jnp.asarray(made_lengths(seed, rows), jnp.int32)
        if sharder is None:
            return policy.params, prompts, keys, keys, lengths
        params, all_keys, lengths = jax.device_put(
            (policy.params, keys, lengths), sharder.named_sharding()
        )
        return params, *sharder.put_batch((prompts, keys)), all_keys, lengths

    by_levels, all_rows = compile_programs(policy, args_of(0), form, sharder)
    for seed in range(14):
        tokens, mask, log_probs = map(np.asarray, by_levels(*args_of(seed)))
        expected_tokens, expected_log_probs = map(np.asarray, all_rows(*args_of(seed)))
        lengths = made_lengths(seed, rows)
        np.testing.assert_array_equal(tokens, expected_tokens)
        np.testing.assert_array_equal(mask, np.arange(LENGTH) < lengths[:, None])
        np.testing.assert_allclose(log_probs, expected_log_probs, rtol=0, atol=tolerance)
    return by_levels.as_text()


@pytest.mark.parametrize(
    ("form", "prompts", "group_size", "tolerance"),
    [
        # Prefixes are read once per prompt for 8 rows, and are those of the rows for 4.
        ("cpu", 4, 4, 1e-5),
        # With two samples per prompt they are those of the rows at once.
        ("stack", 8, 2, 1e-5),
        # A rounding of eight bits may fall the other way.
        ("gpu_int8", 4, 4, 1e-4),
        ("cpu", 16, 1, 1e-5),
    ],
)
def test_tokens_are_those_of_all_rows(
    policy, make_prompts, short_segments, form, prompts, group_size, tolerance
):
    check_tokens(policy, make_prompts(prompts), group_size, form, tolerance)


def test_rows_stay_on_their_devices(policy, make_prompts, short_segments):
    """On four devices the tokens are the same, and all that devices exchange is a count of rows."""
    sharder = Sharder(make_mesh({"data": 4}, jax.devices()[:4]))
    text = check_tokens(policy, make_prompts(4), 8, "stack", 1e-5, sharder)
    assert "num_partitions=4" in text
    assert not re.findall(r"(?:all-gather|all-to-all|reduce-scatter|permute)(?:-start)?\(", text)
    exchanged = set(re.findall(r"= (\S+) all-reduce(?:-start)?\(", text))
    assert exchanged and all(re.fullmatch(r"\w+\[\]", shape) for shape in exchanged)


def test_levels_follow_from_shapes():
    """One loop for short texts, so that they cost what they did; few loops for long ones."""
    assert plan_levels(192, 17) == (Level(192, (17,)),)
    assert plan_levels(128, 144) == (Level(128, (144,)),)
    assert plan_levels(16, 575) == (Level(16, (144, 288, 432, 575)),)
    assert plan_levels(128, 575) == (
        Level(128, (144, 288, 432, 575)),
        Level(64, (288, 575)),
        Level(32, (575,)),
        Level(16, (575,)),
    )
    # Where each loop compiles all layers there are as many as for images.
    assert plan_levels(128, 575, compiles_layers=True) == (
        Level(128, (288, 575)),
        Level(64, (575,)),
        Level(32, (575,)),
    )
    # A stack keeps its rows, for want of memory.
    assert plan_levels(128, 575, stacked=True) == (Level(128, (144, 288, 432, 575)),)
    # Odd numbers of rows, and a completion of one token.
    assert [level.rows for level in plan_levels(61, 300)] == [61, 31, 16]
    assert plan_levels(16, 0) == (Level(16, (0,)),)
