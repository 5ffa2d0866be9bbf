"""Which reward models, and which programs of the policy, the rewards of a config need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from corl_jax.reward_models.collection import SPECS
from corl_jax.rewards.config import RewardOptions

LIKELIHOODS = frozenset(("prompt_likelihood", "picture_likelihood"))
"""Rewards that read with a judge."""


def required_models(reward_names: Iterable[str], options: RewardOptions) -> set[str]:
    """Names of the reward models that these rewards use."""
    return set(model_use_counts(reward_names, options)) & set(SPECS)


def needs_reference(reward_names: Iterable[str], options: RewardOptions) -> bool:
    """Whether one of these rewards reads with the policy that the run starts from."""
    return options.likelihood_judge == "reference" and not LIKELIHOODS.isdisjoint(reward_names)


def model_use_counts(reward_names: Iterable[str], options: RewardOptions) -> Counter[str]:
    """For each model, how many of these rewards call it.

    Returns:
      Counts by the name of a reward model. The policy counts as ``states`` where a reward uses its
      token states, as ``answers`` where a reward lets it answer, and as ``prompt_log_probs`` or
      ``picture_log_probs`` where a judge reads.
    """
    # The models behind the options of config.reward; the other choices need none.
    captioner_models = {"blip": ["captioner"], "self": ["answers"]}.get(options.captioner, [])
    similarity_models = {"bertscore": ["bert"], "soft_jaccard_embedding": ["sentence"]}.get(
        options.similarity, []
    )
    distance_models = ["lpips"] if options.image_distance == "lpips" else []

    passes = 2 if options.likelihood_baseline == "blank" else 1

    models_by_reward = {
        # Depend on the options above.
        "cycle": captioner_models + similarity_models,
        "cycle_both": captioner_models + similarity_models + distance_models,
        "pixel": distance_models,
        # Always the same model.
        "perceptual": ["lpips"],
        "clip": ["clip"],
        "hps": ["hps"],
        # The policy in training.
        "matching": ["states"],
        "self_answer": ["answers"],
        "self_classes": ["answers"],
        "self_boxes": ["answers"],
        # A judge, which may be the policy in training; twice where a baseline is subtracted.
        "prompt_likelihood": ["prompt_log_probs"] * passes,
        "picture_likelihood": ["picture_log_probs"] * passes,
    }

    # Rewards that are not listed, a user's rewards among them, use no model.
    return Counter(model for name in reward_names for model in models_by_reward.get(name, []))
