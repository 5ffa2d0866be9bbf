"""Weights of the tokens of all parts of a step."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corl_jax.objectives.token_weights import token_weights
from corl_jax.stages.rl.config import RlConfig


def part_weights(
    cfg: RlConfig, masks: Mapping[str, Bool[Array, "B G T"]]
) -> dict[str, Float[Array, "B G T"]]:
    """Part to the weights of its tokens within the loss of its task.

    Over plans and images together they sum to what those of images alone would. Verdicts on pictures
    come on top of that.

    Args:
      masks: part to its completion mask.
    """
    aggregation = cfg.loss.aggregation
    weights = {part: token_weights(mask, aggregation=aggregation) for part, mask in masks.items()}
    if "check" in masks:
        weights["check"] = cfg.check.weight * weights["check"]
    if "plan" not in masks:
        return weights
    if cfg.plan.weighting == "share":
        plan, image = cfg.plan.share * weights["plan"], (1 - cfg.plan.share) * weights["image"]
    else:
        plan, image = joint_weights(masks["plan"], masks["image"], aggregation)
    return weights | {"plan": plan, "image": image}


def joint_weights(
    plan_mask: Bool[Array, "B G P"], image_mask: Bool[Array, "N 1 S"], aggregation: str
) -> tuple[Float[Array, "B G P"], Float[Array, "N 1 S"]]:
    """Weights of the tokens of plans and images, as if each pair were one completion (T2I-R1)."""
    samples, length = image_mask.shape[0], plan_mask.shape[-1]
    masks = (plan_mask.reshape(samples, 1, length), image_mask)
    weights = token_weights(jnp.concatenate(masks, -1), aggregation=aggregation)
    return weights[..., :length].reshape(plan_mask.shape), weights[..., length:]
