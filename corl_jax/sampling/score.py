"""The scorer: log-probs of given completions in one teacher-forced pass, under the distribution they were sampled from.

In: a bound model, prompts, completions. Out: log-probs and entropies ``[B, G, T]``. The distribution is made by
``objectives.distribution.log_distribution``, the same function that the sampler calls.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from corl_jax.core.types import Modality, Prompts
from corl_jax.models.unified import Janus
from corl_jax.objectives.distribution import Sampling, entropy, log_distribution, token_log_probs
from corl_jax.sampling.layout import SpecialIds, packed, unconditional_tokens


def score(
    model: Janus,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    sampling: Sampling,
    ids: SpecialIds,
    *,
    modality: Modality,
    guided: bool = False,
    shared_prefix: bool = False,
) -> tuple[Float[Array, "B G T"], Float[Array, "B G T"]]:
    """Scores ``G`` completions of each of ``B`` prompts.

    Args:
      sampling: what the sampler used.
      ids: special ids.
      modality: which head, and how completions are embedded.
      guided: score pictures under the guided distribution; runs the unconditional prompt as well.
      shared_prefix: read each prompt once and append its completions under a block mask; otherwise once per sample.
        The same numbers up to rounding; worth it where prompts are long and completions short.

    Returns:
      log-prob of every token and entropy of the distribution it was drawn from.
    """
    states = hidden_states(model, prompts, tokens, ids, modality=modality, shared_prefix=shared_prefix)
    if modality == "text":
        log_probs = log_distribution(model.text_logits(states), None, sampling)
        return token_log_probs(log_probs, tokens), entropy(log_probs)
    logits, silent = model.image_logits(states), None
    if guided:
        nothing = Prompts(unconditional_tokens(prompts.tokens, prompts.mask, ids.pad), prompts.mask)
        silent = model.image_logits(
            hidden_states(model, nothing, tokens, ids, modality=modality, shared_prefix=shared_prefix)
        )
    log_probs = log_distribution(logits, silent, sampling)
    return token_log_probs(log_probs, tokens), entropy(log_probs)


def hidden_states(
    model: Janus,
    prompts: Prompts,
    tokens: Int[Array, "B G T"],
    ids: SpecialIds,
    *,
    modality: Modality,
    shared_prefix: bool,
) -> Float[Array, "B G T D"]:
    """The state that predicts each token: the prompt's last for the first, then the completion's, shifted by one."""
    groups, samples, length = tokens.shape
    x = model.embed_prompt(prompts.tokens, prompts.images, ids.image)
    mask = prompts.mask
    together = samples if shared_prefix else 1
    if not shared_prefix:
        x, mask = jnp.repeat(x, samples, 0), jnp.repeat(mask, samples, 0)
    rows = groups * samples // together
    inputs = tokens[..., :-1].reshape(rows, together * (length - 1))
    written = model.embed_codes(inputs) if modality == "image" else model.embed_text(inputs)
    positions, visible = packed(mask, together, length - 1)
    states, _ = model.language_model(jnp.concatenate([x, written], 1), positions, visible)
    prompt = x.shape[1]
    last = jnp.broadcast_to(states[:, prompt - 1, None, None], (rows, together, 1, states.shape[-1]))
    own = states[:, prompt:].reshape(rows, together, length - 1, -1)
    return jnp.concatenate([last, own], 2).reshape(groups, samples, length, -1)


def largest_gap(sampler: jax.Array, scorer: jax.Array, mask: jax.Array) -> jax.Array:
    """Largest absolute difference of two sets of log-probs where ``mask`` is true."""
    return jnp.max(jnp.where(mask, jnp.abs(sampler - scorer), 0))
