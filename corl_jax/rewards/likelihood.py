"""The policy's own likelihood as a reward, in both directions (SUDER, arXiv 2506.07963; GvU, 2603.06043).

In: image completions, or text completions; out: one number each. No reward model is needed: a
drawing is good where a judge finds its prompt likely behind it, and a text is good where the judge
finds the record's picture likely as a drawing of it. Equations as second-hand sources give them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.data.records import image_of
from corl_jax.rewards.base import RewardContext, judge_of, pixels_of, rewards, text_of
from corl_jax.rewards.parsing.answers import TAG
from corl_jax.rewards.parsing.thinking import thinking

GREY = 127
"""Level of the image that shows nothing, as the border that Janus pads with."""


@rewards.register("prompt_likelihood")
def prompt_likelihood(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """How likely the judge finds the tokens of the prompt behind the drawing, see ``likelihood``.

    With ``likelihood_baseline=blank`` compared with the same tokens behind a grey image, so that
    prompts of common words are worth no more than others.
    """
    images = np.stack([pixels_of(completion) for completion in completions])
    prompts = [completion.record.prompt for completion in completions]
    policy, judge = context.policy_handle, judge_of(context)

    log_probs = policy.prompt_log_probs(images, prompts, judge)
    if context.options.likelihood_baseline == "none":
        return likelihood(log_probs, None, context)
    blanks = np.full_like(images, GREY)
    return likelihood(log_probs, policy.prompt_log_probs(blanks, prompts, judge), context)


@rewards.register("picture_likelihood")
def picture_likelihood(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """How likely the judge finds the record's picture as a drawing of the text, see ``likelihood``.

    The text is what stands between the thinking tags, or all of it where there are none. With
    ``likelihood_baseline=blank`` compared with the same picture for a prompt without words.
    """
    texts = [described(text_of(completion)) for completion in completions]
    images = [image_of(completion.record) for completion in completions]
    policy, judge = context.policy_handle, judge_of(context)

    log_probs = policy.picture_log_probs(texts, images, judge)
    if context.options.likelihood_baseline == "none":
        return likelihood(log_probs, None, context)
    wordless = policy.picture_log_probs([""] * len(texts), images, judge)
    return likelihood(log_probs, wordless, context)


def likelihood(
    log_probs: Float[np.ndarray, "N"],
    baseline: Float[np.ndarray, "N"] | None,
    context: RewardContext,
) -> Float[np.ndarray, "N"]:
    """Mean log-probs per token as rewards.

    Args:
      log_probs: of the tokens, in nats per token, at most 0.
      baseline: of the same tokens where there was nothing to read; None for no comparison.

    Returns:
      without a baseline ``exp(l)``, the geometric mean of the probabilities; with one ``exp(l) /
      (exp(l) + exp(b))``, which is 0.5 where what was read did not matter. Both are in [0, 1]. Under
      ``normalization=none`` the log-prob ``l``, or the difference ``l - b``.
    """
    values = np.asarray(log_probs, np.float64)
    difference = values if baseline is None else values - np.asarray(baseline, np.float64)
    if context.options.normalization == "none":
        return difference
    return np.exp(difference) if baseline is None else 1 / (1 + np.exp(-difference))


def described(text: str) -> str:
    """What a completion says about the picture: its thinking, or all of it without tags."""
    thought = thinking(text)
    words = TAG.sub(" ", text) if thought is None else thought
    return re.sub(r"\s+", " ", words).strip()
