"""Group-relative advantages, and how the two tasks of one prompt are paired. In and out: ``[B, G]``."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry

EPSILON = 1e-4

scales: Registry[Callable[[Array], Array]] = Registry("advantage scale")


@scales.register("group")
def group(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """``(r - mean) / (std + 1e-4)`` within the group, std with ddof 1 (CoRL Eq. 1, as its code has it)."""
    centred = rewards - jnp.mean(rewards, 1, keepdims=True)
    return centred / (jnp.std(rewards, 1, ddof=1, keepdims=True) + EPSILON)


@scales.register("batch")
def batch(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Centred within the group, divided by the std of the whole batch."""
    centred = rewards - jnp.mean(rewards, 1, keepdims=True)
    return centred / (jnp.std(centred, ddof=1) + EPSILON)


@scales.register("none")
def none(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Centred within the group only (Dr. GRPO)."""
    return rewards - jnp.mean(rewards, 1, keepdims=True)


PAIRINGS = ("unified", "separate", "sum_of_advantages")


def paired(
    image: Float[Array, "B G"], text: Float[Array, "E G"], *, pairing: str, scale: str, text_weight: float
) -> tuple[Float[Array, "B G"], Float[Array, "E G"]]:
    """Advantages of both tasks.

    Args:
      image: rewards of ``G`` pictures of each prompt.
      text: rewards of ``G`` answers; row ``i`` belongs to the record of picture row ``i`` unless ``separate``.
      pairing: ``unified``: the i-th picture and the i-th answer share the reward ``image + text_weight * text`` and its
        advantage (CoRL Eq. 5, 6); ``separate``: each task its own; ``sum_of_advantages``: both share
        ``A_image + text_weight * A_text``, not renormalised.
      scale: a name in ``scales``.
      text_weight: lambda, 0.8 in the paper.

    Raises:
      UserError: unknown name, or rows that cannot be paired.
    """
    normalise = scales[scale]
    if pairing == "separate":
        return normalise(image), normalise(text)
    if pairing not in PAIRINGS:
        raise UserError(f"unknown pairing {pairing!r}; expected one of {', '.join(PAIRINGS)}")
    if image.shape != text.shape:
        raise UserError(
            f"pairing {pairing!r} needs as many answers as pictures, but they are {text.shape} and {image.shape}; "
            "ask the same number of questions and prompts, or choose pairing='separate'"
        )
    if pairing == "unified":
        shared = normalise(image + text_weight * text)
    else:
        shared = normalise(image) + text_weight * normalise(text)
    return shared, shared
