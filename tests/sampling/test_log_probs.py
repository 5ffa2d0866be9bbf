"""Sampler and log-probs use one distribution, token by token; no row depends on its neighbours."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts
from corl_jax.data.images import preprocess
from corl_jax.data.shapes.examples import example
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.models.janus.model import abstract
from corl_jax.sampling import decode, decode_text
from corl_jax.sampling.batching import take
from corl_jax.sampling.log_probs import LogProbOptions, completion_states, largest_difference
from corl_jax.sampling.policy import Policy
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
def image_prompts(tiny_policy):
    """Prompts to draw the captions, of three lengths."""
    tokenizer = tiny_policy.tokenizer
    rows = [tokenizer.image_generation_prompt(caption) for caption in CAPTIONS]
    assert len({len(row) for row in rows}) == 3
    return Prompts(*left_pad(rows, tokenizer.pad_id))


@pytest.fixture(scope="module")
def text_prompts(tiny_policy):
    """Questions about random images."""
    rng = np.random.default_rng(0)
    rows = [tiny_policy.tokenizer.question_prompt(question, 36) for question in QUESTIONS]
    images = np.stack([preprocess(rng.integers(0, 256, (48, 48, 3), np.uint8), 48) for _ in rows])
    return Prompts(*left_pad(rows, tiny_policy.tokenizer.pad_id), images)


def prompt_keys(rows, group_size=GROUP, seed=0):
    """Keys ``[B, G]`` that belong to the prompts numbered ``rows``."""
    return jnp.stack([sample_keys(stream(seed, "test", row), group_size) for row in rows])


@pytest.fixture(scope="module")
def sample_images(tiny_policy, image_prompts):
    """A function from guidance scale and temperature to ``SamplingParams`` and a rollout."""
    fns, params = tiny_policy.fns, tiny_policy.params

    def sample(guidance, temperature, rows=(0, 1, 2)):
        sampling = fns.sampling_params("image", guidance=guidance, temperature=temperature)
        prompts = take(image_prompts, np.array(rows))
        guided = guidance != 1
        return sampling, fns.sample_images(params, prompts, prompt_keys(rows), sampling, guided)

    return sample


@pytest.fixture(scope="module")
def sample_text(tiny_policy, text_prompts):
    """A function from temperature to ``SamplingParams`` and a rollout."""
    fns, params = tiny_policy.fns, tiny_policy.params

    def sample(temperature, rows=(0, 1, 2)):
        sampling = fns.sampling_params("text", temperature=temperature)
        prompts = take(text_prompts, np.array(rows))
        return sampling, fns.sample_text(params, prompts, prompt_keys(rows), sampling, LENGTH)

    return sample


@pytest.mark.parametrize("shared_prefix", [False, True])
@pytest.mark.parametrize(
    ("guidance", "temperature"), [(1.0, 1.0), (1.0, 0.7), (2.5, 1.0), (2.5, 1.3)]
)
def test_log_probs_of_images_are_the_samplers(
    tiny_policy, image_prompts, sample_images, guidance, temperature, shared_prefix
):
    sampling, rollout = sample_images(guidance, temperature)
    options = LogProbOptions(guided=guidance != 1, shared_prefix=shared_prefix)
    log_probs = tiny_policy.fns.log_probs(
        tiny_policy.params, image_prompts, rollout, sampling, options
    )
    assert log_probs.shape == rollout.tokens.shape == (3, GROUP, 36) and rollout.mask.all()
    assert largest_difference(rollout.log_probs, log_probs, rollout.mask) <= TOLERANCE
    assert np.all(np.asarray(log_probs) < 0)


@pytest.mark.parametrize("shared_prefix", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_of_texts_are_the_samplers(
    tiny_policy, text_prompts, sample_text, temperature, shared_prefix
):
    sampling, rollout = sample_text(temperature)
    options = LogProbOptions(shared_prefix=shared_prefix)
    log_probs = tiny_policy.fns.log_probs(
        tiny_policy.params, text_prompts, rollout, sampling, options
    )
    assert log_probs.shape == (3, GROUP, LENGTH)
    assert largest_difference(rollout.log_probs, log_probs, rollout.mask) <= TOLERANCE


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_in_bfloat16_sampler_and_log_probs_stay_together_at_guidance_5(shared_prefix):
    """Rounded as usual, 9 % of the tokens are outside, .065 nats apart (docs/precision.md)."""
    policy = Policy.load("tiny", dtype="bfloat16")
    captions = [example("test", i).prompt for i in range(8)]
    rows = [policy.tokenizer.image_generation_prompt(caption) for caption in captions]
    prompts = Prompts(*left_pad(rows, policy.tokenizer.pad_id))
    sampling = policy.fns.sampling_params("image", guidance=5.0)
    keys = prompt_keys(range(8), 4)
    rollout = policy.fns.sample_images(policy.params, prompts, keys, sampling)
    options = LogProbOptions(guided=True, shared_prefix=shared_prefix)
    log_probs = policy.fns.log_probs(policy.params, prompts, rollout, sampling, options)
    gaps = np.abs(np.asarray(log_probs) - np.asarray(rollout.log_probs))
    assert gaps.mean() < 0.02
    assert (np.abs(np.expm1(gaps)) > 0.2).mean() < 0.01


def test_log_probs_in_microbatches_are_the_same(tiny_policy, text_prompts, sample_text):
    prompts, rollout = (
        take(text_prompts, np.array([0, 1, 2, 0])),
        sample_text(1.0, (0, 1, 2, 0))[1],
    )
    whole, parts = (
        tiny_policy.fns.log_probs(
            tiny_policy.params,
            prompts,
            rollout,
            tiny_policy.fns.sampling_params("text"),
            LogProbOptions(microbatches=microbatches),
        )
        for microbatches in (1, 2)
    )
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    with pytest.raises(UserError, match="micro-batches"):
        tiny_policy.fns.log_probs(
            tiny_policy.params,
            prompts,
            rollout,
            tiny_policy.fns.sampling_params("text"),
            LogProbOptions(microbatches=3),
        )


def test_log_probs_of_another_distribution_differ(tiny_policy, image_prompts, sample_images):
    """Without guidance, at another temperature, and of shifted tokens."""
    sampling, rollout = sample_images(2.5, 1.3)

    def difference(tokens, sampling, guided):
        changed = dataclasses.replace(rollout, tokens=tokens)
        log_probs = tiny_policy.fns.log_probs(
            tiny_policy.params, image_prompts, changed, sampling, LogProbOptions(guided=guided)
        )
        return float(largest_difference(rollout.log_probs, log_probs, rollout.mask))

    other_temperature = tiny_policy.fns.sampling_params("image", guidance=2.5, temperature=1.0)
    assert difference(rollout.tokens, sampling, False) > 0.1
    assert difference(rollout.tokens, other_temperature, True) > 0.1
    assert difference(jnp.roll(rollout.tokens, 1, -1), sampling, True) > 0.1


def test_banned_ids_are_never_sampled(tiny_policy, sample_text):
    banned, tokenizer = set(tiny_policy.fns.ids.banned), tiny_policy.tokenizer
    special = {tokenizer.bos_id, tokenizer.pad_id, tokenizer.boi_id, tokenizer.eoi_id}
    assert special | {tokenizer.image_id} <= banned
    assert tokenizer.eos_id not in banned

    # At this temperature samples are nearly uniform.
    _, rollout = sample_text(3.0)
    sampled = set(np.asarray(rollout.tokens)[np.asarray(rollout.mask)])
    assert len(sampled) > 25 and not sampled & banned


@pytest.mark.parametrize("modality", ["image", "text"])
def test_samples_of_a_prompt_do_not_depend_on_its_neighbours(sample_images, sample_text, modality):
    def sample_tokens(rows):
        if modality == "image":
            _, rollout = sample_images(2.5, 1.0, rows)
        else:
            _, rollout = sample_text(1.0, rows)
        return np.asarray(rollout.tokens)

    tokens = sample_tokens((0, 1, 2))
    np.testing.assert_array_equal(tokens[[2, 0, 0]], sample_tokens((2, 0, 0)))
    assert len({row.tobytes() for row in tokens.reshape(9, -1)}) == 9


def test_unconditional_prompts_of_a_batch_are_those_made_before_padding(tiny_policy, image_prompts):
    tokenizer = tiny_policy.tokenizer
    rows = [
        tokenizer.unconditional_prompt(tokenizer.image_generation_prompt(caption))
        for caption in CAPTIONS
    ]
    tokens, mask = left_pad(rows, tokenizer.pad_id)
    np.testing.assert_array_equal(mask, image_prompts.mask)
    np.testing.assert_array_equal(
        unconditional_tokens(image_prompts.tokens, image_prompts.mask, tokenizer.pad_id), tokens
    )
    first = np.argmax(mask, 1)
    assert np.all(tokens[np.arange(3), first] == tokenizer.bos_id)
    assert np.all(tokens[:, -1] == tokenizer.boi_id)


def test_greedy_tokens_are_the_argmax_of_one_full_pass(
    tiny_policy, image_prompts, text_prompts, sample_images, sample_text
):
    fns = tiny_policy.fns
    model = bind(fns.graphdef, tiny_policy.params)

    @jax.jit
    def best_image_tokens(tokens):
        states = completion_states(model, image_prompts, tokens, fns.ids, "image", LogProbOptions())
        return jnp.argmax(model.image_logits(states), -1)

    @jax.jit
    def best_text_tokens(tokens):
        states = completion_states(model, text_prompts, tokens, fns.ids, "text", LogProbOptions())
        banned = fns.ids.banned_mask(tiny_policy.cfg.text_vocab_size)
        return jnp.argmax(jnp.where(banned, -jnp.inf, model.text_logits(states)), -1)

    _, rollout = sample_images(1.0, 0.0)
    np.testing.assert_array_equal(rollout.tokens, best_image_tokens(rollout.tokens))
    _, rollout = sample_text(0.0)
    best = best_text_tokens(rollout.tokens)
    np.testing.assert_array_equal(rollout.tokens[rollout.mask], best[rollout.mask])


def test_text_stops_when_all_rows_have_ended(tiny_policy, text_prompts, monkeypatch):
    """With a likely end token, rows end at different places; the loop runs to the last of them."""
    eos, pad, max_length = tiny_policy.tokenizer.eos_id, tiny_policy.tokenizer.pad_id, 200
    steps = []
    decode_step, log_distribution = decode_text.decode_step, decode_text.log_distribution

    def counted_decode_step(*args):
        step = args[4]
        jax.debug.callback(lambda step: steps.append(int(step)), step)
        return decode_step(*args)

    def with_likely_eos(logits, uncond, sampling):
        eos_logit = jax.nn.logsumexp(logits, -1) - 1
        return log_distribution(logits.at[:, eos].set(eos_logit), uncond, sampling)

    monkeypatch.setattr(decode_text, "decode_step", counted_decode_step)
    monkeypatch.setattr(decode_text, "log_distribution", with_likely_eos)
    sampling, ids = tiny_policy.fns.sampling_params("text"), tiny_policy.fns.ids

    @jax.jit
    def run(params):
        model = bind(tiny_policy.fns.graphdef, params)
        keys = prompt_keys((0, 1, 2), group_size=2)
        return decode_text.decode_text(model, text_prompts, keys, sampling, ids, max_length)

    tokens, mask, log_probs = map(np.asarray, run(tiny_policy.params))
    jax.effects_barrier()
    lengths = mask.sum(1)
    assert len(set(lengths)) > 1 and max(lengths) < max_length
    # The last token of all is sampled but not fed back.
    assert sorted(steps) == list(range(max(lengths) - 1))

    # A completion is everything up to its first end token, that one included.
    for row, row_mask, row_log_probs, length in zip(tokens, mask, log_probs, lengths, strict=True):
        np.testing.assert_array_equal(row_mask, np.arange(max_length) < length)
        assert row[length - 1] == eos and eos not in row[: length - 1]
        assert np.all(row[length:] == pad)
        assert np.all(row_log_probs[length:] == 0) and np.all(row_log_probs[:length] < 0)


def test_without_an_end_token_all_tokens_count(tiny_policy, sample_text):
    _, rollout = sample_text(1.0)
    has_no_eos = ~np.any(np.asarray(rollout.tokens) == tiny_policy.tokenizer.eos_id, -1)
    assert has_no_eos.any() and np.asarray(rollout.mask)[has_no_eos].all()


@pytest.mark.parametrize(("unroll", "separate"), [(1, False), (4, False), (1, True)])
def test_segments_change_no_token(tiny_policy, image_prompts, monkeypatch, unroll, separate):
    """Image tokens decoded in one segment, or in several whose cache windows grow."""
    model = abstract(tiny_policy.cfg, unroll=unroll, separate_decoding=separate)
    graphdef, _ = nnx.split(model)
    sampling, ids = tiny_policy.fns.sampling_params("image", guidance=2.5), tiny_policy.fns.ids
    windows, decode_step = [], decode.decode_step

    def checked_decode_step(*args):
        cache, window = args[3], args[-1]
        windows.append(window)
        # On a CPU separate layers have caches that grow; other caches are made once.
        assert isinstance(cache.k, tuple) == (separate or unroll == 4)
        assert cache.length == (window if unroll == 4 else 35)
        return decode_step(*args)

    monkeypatch.setattr(decode, "decode_step", checked_decode_step)

    def sample_in_segments(segment, noise_bytes=2**26):
        # The form on a GPU has shorter segments; the other length would give other windows.
        used, unused = ("SHORT_SEGMENT", "SEGMENT") if separate else ("SEGMENT", "SHORT_SEGMENT")
        monkeypatch.setattr(decode, used, segment)
        monkeypatch.setattr(decode, unused, 7)
        monkeypatch.setattr(decode, "NOISE_BYTES", noise_bytes)

        @jax.jit
        def run(params):
            model = bind(graphdef, params)
            keys = prompt_keys((0, 1, 2))
            return decode.decode_image(model, image_prompts, keys, sampling, ids, True)

        windows.clear()
        return *run(tiny_policy.params), set(windows)

    expected_tokens, expected_log_probs, one_window = sample_in_segments(144)
    tokens, log_probs, several_windows = sample_in_segments(15)
    assert one_window == {35} and several_windows == {15, 30, 35}
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(log_probs, expected_log_probs, atol=1e-5)

    # Random numbers drawn ahead or step by step.
    np.testing.assert_array_equal(sample_in_segments(144, noise_bytes=0)[0], expected_tokens)
