"""Rewards: named functions over completions, chosen and weighted in a config."""

from corl_jax.rewards import image, matching, text

__all__ = ["image", "matching", "text"]
