"""Sampler and scorer speak of one distribution, token by token; what a prompt is given does not depend on others."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts, Rollout
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.models.janus.model import abstract
from corl_jax.sampling import decode
from corl_jax.sampling.batching import take
from corl_jax.sampling.log_probs import completion_states, largest_difference
from corl_jax.sampling.prompt_layout import unconditional_tokens

CAPTIONS = (
    "a red circle",
    "two blue squares and a green triangle",
    "a purple circle left of a red square",
)
QUESTIONS = (
    "how many objects are there?",
    "what shape is the red object?",
    "is there a blue circle?",
)
GROUP, LENGTH = 3, 12
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def drawing(tiny_policy):
    rows = [tiny_policy.tokenizer.image_generation_prompt(caption) for caption in CAPTIONS]
    assert len({len(row) for row in rows}) == 3
    return Prompts(*left_pad(rows, tiny_policy.tokenizer.pad_id))


@pytest.fixture(scope="module")
def asking(tiny_policy):
    rng = np.random.default_rng(0)
    rows = [tiny_policy.tokenizer.question_prompt(question, 36) for question in QUESTIONS]
    pictures = np.stack([preprocess(rng.integers(0, 256, (48, 48, 3), np.uint8), 48) for _ in rows])
    return Prompts(*left_pad(rows, tiny_policy.tokenizer.pad_id), pictures)


def keys_of(rows, group=GROUP, seed=0):
    """Keys ``[B, G]`` that belong to the prompts numbered ``rows``."""
    return jnp.stack([sample_keys(stream(seed, "test", row), group) for row in rows])


@pytest.fixture(scope="module")
def draw(tiny_policy, drawing):
    """Rollouts of pictures by (guidance, temperature)."""

    def one(guidance, temperature, rows=(0, 1, 2)):
        sampling = tiny_policy.fns.sampling_params("image", guidance=guidance, temperature=temperature)
        prompts = take(drawing, np.array(rows))
        return sampling, tiny_policy.fns.sample_images(
            tiny_policy.params, prompts, keys_of(rows), sampling, guidance != 1
        )

    return one


@pytest.fixture(scope="module")
def write(tiny_policy, asking):
    """Rollouts of texts at a temperature."""

    def one(temperature, rows=(0, 1, 2)):
        sampling = tiny_policy.fns.sampling_params("text", temperature=temperature)
        prompts = take(asking, np.array(rows))
        return sampling, tiny_policy.fns.sample_text(
            tiny_policy.params, prompts, keys_of(rows), sampling, LENGTH
        )

    return one


@pytest.mark.parametrize("shared_prefix", [False, True])
@pytest.mark.parametrize(
    ("guidance", "temperature"), [(1.0, 1.0), (1.0, 0.7), (2.5, 1.0), (2.5, 1.3)]
)
def test_pictures_agree(tiny_policy, drawing, draw, guidance, temperature, shared_prefix):
    sampling, rollout = draw(guidance, temperature)
    scored = tiny_policy.fns.log_probs(
        tiny_policy.params,
        drawing,
        rollout,
        sampling,
        guided=guidance != 1,
        shared_prefix=shared_prefix,
    )
    assert scored.shape == rollout.tokens.shape == (3, GROUP, 36) and rollout.mask.all()
    assert largest_difference(rollout.log_probs, scored, rollout.mask) <= TOLERANCE
    assert np.all(np.asarray(scored) < 0)


@pytest.mark.parametrize("shared_prefix", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_texts_agree(tiny_policy, asking, write, temperature, shared_prefix):
    sampling, rollout = write(temperature)
    scored = tiny_policy.fns.log_probs(
        tiny_policy.params, asking, rollout, sampling, shared_prefix=shared_prefix
    )
    assert scored.shape == (3, GROUP, LENGTH)
    assert largest_difference(rollout.log_probs, scored, rollout.mask) <= TOLERANCE


def test_other_settings_do_not_agree(tiny_policy, drawing, draw):
    """So that agreement means something: guidance left out, another temperature, tokens moved by one."""
    sampling, rollout = draw(2.5, 1.3)

    def gap(tokens, sampling, guided):
        moved = dataclasses.replace(rollout, tokens=tokens)
        scored = tiny_policy.fns.log_probs(
            tiny_policy.params, drawing, moved, sampling, guided=guided
        )
        return float(largest_difference(rollout.log_probs, scored, rollout.mask))

    plain = tiny_policy.fns.sampling_params("image", guidance=2.5, temperature=1.0)
    assert gap(rollout.tokens, sampling, False) > 0.1
    assert gap(rollout.tokens, plain, True) > 0.1
    assert gap(jnp.roll(rollout.tokens, 1, -1), sampling, True) > 0.1


def test_banned_ids_are_never_written(tiny_policy, write):
    banned = tiny_policy.fns.ids.banned
    ids = tiny_policy.tokenizer
    assert {ids.bos_id, ids.pad_id, ids.boi_id, ids.eoi_id, ids.image_id} <= set(
        banned
    ) and ids.eos_id not in banned
    _, rollout = write(3.0)  # nearly uniform
    written = np.asarray(rollout.tokens)[np.asarray(rollout.mask)]
    assert len(set(written)) > 25 and not set(written) & set(banned)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_neighbours_change_nothing(draw, write, kind):
    def tokens(rows):
        return np.asarray((draw(2.5, 1.0, rows) if kind == "image" else write(1.0, rows))[1].tokens)

    together = tokens((0, 1, 2))
    np.testing.assert_array_equal(together[[2, 0, 0]], tokens((2, 0, 0)))
    assert len({row.tobytes() for row in together.reshape(9, -1)}) == 9


def test_the_silent_prompt_equals_the_one_built_before_padding(tiny_policy, drawing):
    tokenizer = tiny_policy.tokenizer
    rows = [tokenizer.unconditional_prompt(tokenizer.image_generation_prompt(caption)) for caption in CAPTIONS]
    tokens, mask = left_pad(rows, tokenizer.pad_id)
    np.testing.assert_array_equal(mask, drawing.mask)
    np.testing.assert_array_equal(
        unconditional_tokens(drawing.tokens, drawing.mask, tokenizer.pad_id), tokens
    )
    first = np.argmax(mask, 1)
    assert np.all(tokens[np.arange(3), first] == tokenizer.bos_id) and np.all(
        tokens[:, -1] == tokenizer.boi_id
    )


def test_greedy_is_the_argmax_of_the_full_forward(tiny_policy, drawing, asking, draw, write):
    model = bind(tiny_policy.fns.graphdef, tiny_policy.params)

    @jax.jit
    def best_codes(rollout: Rollout):
        states = completion_states(
            model,
            drawing,
            rollout.tokens,
            tiny_policy.fns.ids,
            modality="image",
            shared_prefix=False,
        )
        return jnp.argmax(model.image_logits(states), -1)

    @jax.jit
    def best_words(rollout: Rollout):
        states = completion_states(
            model,
            asking,
            rollout.tokens,
            tiny_policy.fns.ids,
            modality="text",
            shared_prefix=False,
        )
        banned = tiny_policy.fns.ids.banned_mask(tiny_policy.cfg.decoder.vocab_size)
        return jnp.argmax(jnp.where(banned, -jnp.inf, model.text_logits(states)), -1)

    _, rollout = draw(1.0, 0.0)
    np.testing.assert_array_equal(rollout.tokens, best_codes(rollout))
    _, rollout = write(0.0)
    np.testing.assert_array_equal(rollout.tokens[rollout.mask], best_words(rollout)[rollout.mask])


def test_text_stops_when_all_rows_have_ended(tiny_policy, asking, monkeypatch):
    """An end token made likely ends rows at different places; the loop runs to the last of them and no further."""
    eos, pad, steps, longest = tiny_policy.tokenizer.eos_id, tiny_policy.tokenizer.pad_id, [], 200
    real, real_distribution = decode.decode_step, decode.log_distribution

    def advance(*args):
        jax.debug.callback(lambda step: steps.append(int(step)), args[-1])
        return real(*args)

    def often_ending(logits, silent, sampling):
        return real_distribution(
            logits.at[:, eos].set(jax.nn.logsumexp(logits, -1) - 1), silent, sampling
        )

    monkeypatch.setattr(decode, "decode_step", advance)
    monkeypatch.setattr(decode, "log_distribution", often_ending)
    sampling = tiny_policy.fns.sampling_params("text")

    @jax.jit
    def run(params):
        model = bind(tiny_policy.fns.graphdef, params)
        return decode.decode_text(
            model, asking, keys_of((0, 1, 2), 2), sampling, tiny_policy.fns.ids, longest
        )

    tokens, mask, log_probs = map(np.asarray, run(tiny_policy.params))
    jax.effects_barrier()
    lengths = mask.sum(1)
    assert len(set(lengths)) > 1 and len(steps) == max(lengths) < longest
    for row, seen, said, length in zip(tokens, mask, log_probs, lengths, strict=True):
        np.testing.assert_array_equal(
            seen, np.arange(longest) < length
        )  # up to the end token, which counts
        assert row[length - 1] == eos and eos not in row[: length - 1]
        assert (
            np.all(row[length:] == pad) and np.all(said[length:] == 0) and np.all(said[:length] < 0)
        )


def test_without_an_end_all_tokens_count(tiny_policy, write):
    _, rollout = write(1.0)
    open_rows = ~np.any(np.asarray(rollout.tokens) == tiny_policy.tokenizer.eos_id, -1)
    assert open_rows.any() and np.asarray(rollout.mask)[open_rows].all()


@pytest.mark.parametrize("unroll", [1, 4])
def test_segments_change_no_token(tiny_policy, drawing, monkeypatch, unroll):
    """What a step reads of the cache grows as tokens are written: in pieces, the last of them shorter, or at once."""
    graphdef, _ = nnx.split(abstract(tiny_policy.cfg, unroll=unroll))
    sampling, reads, real = (
        tiny_policy.fns.sampling_params("image", guidance=2.5),
        [],
        decode.decode_step,
    )

    def advance(*args):
        reads.append(args[-1])
        assert args[3].length == (
            args[-1] if unroll == 4 else 35
        )  # layers of their own grow, a stack is read in part
        return real(*args)

    monkeypatch.setattr(decode, "decode_step", advance)

    def sample_images(segment, noise=2**26):
        monkeypatch.setattr(decode, "SEGMENT", segment)
        monkeypatch.setattr(decode, "NOISE", noise)

        @jax.jit
        def run(params):
            model = bind(graphdef, params)
            return decode.decode_image(
                model, drawing, keys_of((0, 1, 2)), sampling, tiny_policy.fns.ids, True
            )

        reads.clear()
        return run(tiny_policy.params), set(reads)

    (codes, log_probs), one = draw(144)
    (pieces, piece_log_probs), several = draw(15)
    assert one == {35} and several == {15, 30, 35}
    np.testing.assert_array_equal(pieces, codes)
    np.testing.assert_allclose(piece_log_probs, log_probs, atol=1e-5)
    np.testing.assert_array_equal(
        draw(144, noise=0)[0][0], codes
    )  # random numbers made ahead or step by step
