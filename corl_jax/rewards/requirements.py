"""Which reward models, and which readings by the policy, the rewards of a config need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from corl_jax.reward_models.collection import SPECS
from corl_jax.rewards.config import RewardSettings


def needed(table: Iterable[str], settings: RewardSettings) -> set[str]:
    """Names of the models that rewards of these names use."""
    return set(uses(table, settings)) & set(SPECS)


def uses(table: Iterable[str], settings: RewardSettings) -> Counter[str]:
    """How many rewards of these names ask each model; the policy counts as ``states`` or, writing, ``answers``."""
    caption = {"blip": ["captioner"], "self": ["answers"]}.get(settings.captioner, [])
    compare = {"bertscore": ["bert"], "soft_jaccard_embedding": ["sentence"]}.get(
        settings.similarity, []
    )
    near = ["lpips"] if settings.closeness == "lpips" else []
    asked = {
        "cycle": caption + compare,
        "cycle_both": caption + compare + near,
        "pixel": near,
        "perceptual": ["lpips"],
        "clip": ["clip"],
        "matching": ["states"],
        "self_answer": ["answers"],
        "self_classes": ["answers"],
        "self_boxes": ["answers"],
    }
    return Counter(model for name in table for model in asked.get(name, []))
