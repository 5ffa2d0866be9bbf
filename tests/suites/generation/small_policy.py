"""A policy that reads any prompt and draws pictures of 16 pixels at once."""

from __future__ import annotations

import dataclasses

from corl_jax.evals.config import EvalPolicy
from corl_jax.sampling.policy import Policy


def write_small_policy(folder):
    """A Hugging Face folder with random weights; returns it."""
    import helpers

    cfg = helpers.dot_config()
    vocabulary = len(helpers.byte_tokenizer().get_vocab())
    decoder = dataclasses.replace(cfg.decoder, vocab_size=vocabulary, max_length=256)
    cfg = dataclasses.replace(cfg, decoder=decoder)
    return helpers.write_untrained_policy(cfg, folder, write_tokenizer=helpers.write_byte_tokenizer)


def open_small_policy(folder):
    """Policy and positions of the folder."""
    policy = Policy.load(str(folder))
    positions = policy.cfg.decoder.max_length
    return EvalPolicy(policy.fns, policy.params, policy.tokenizer), positions
