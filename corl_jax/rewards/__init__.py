"""Rewards: named functions over completions, chosen and weighted in a config."""

from corl_jax.rewards import asked_itself, closeness, cycle, image, matching, text

__all__ = ["asked_itself", "closeness", "cycle", "image", "matching", "text"]
