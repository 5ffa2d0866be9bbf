"""How the two tasks of one prompt share their rewards, and groups without an advantage.

In: rewards ``[B, G]``, ``G`` completions of each of ``B`` prompts. Out: advantages of the same
shape, or one flag per group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.errors import UserError
from corl_jax.objectives.normalizations import Normalizer, equal_rewards

# See ``paired_advantages``.
PAIRINGS = ("unified", "separate", "sum_of_advantages")


def paired_advantages(
    image_rewards: Float[Array, "B G"],
    text_rewards: Float[Array, "E G"],
    *,
    pairing: str,
    normalization: str,
    text_weight: float,
    baseline: str = "mean",
    pass_k: int = 2,
) -> tuple[Float[Array, "B G"], Float[Array, "E G"]]:
    """Advantages of both tasks.

    Args:
      image_rewards: rewards of ``G`` images for each prompt.
      text_rewards: rewards of ``G`` answers. Row ``i`` belongs to the same record as row ``i`` of
        ``image_rewards``, unless ``pairing`` is ``separate``.
      pairing: which rewards make an advantage.

        * ``unified``: image ``i`` and answer ``i`` of a record share the reward
          ``r_image + text_weight * r_text`` and its advantage (CoRL Eq. 5, 6).
        * ``separate``: each task has advantages from its rewards alone.
        * ``sum_of_advantages``: they share ``A_image + text_weight * A_text``, which is not
          normalized again.
      normalization: a name in ``normalizations``.
      text_weight: ``lambda``, 0.8 in the paper.
      baseline: a name in ``baselines``.
      pass_k: samples per attempt, for ``normalization="pass_at_k"``.

    Returns:
      advantages of the images, and of the answers.

    Raises:
      UserError: an unknown name, or rows that cannot be paired.
    """
    normalize = Normalizer(normalization, baseline, pass_k)
    if pairing == "separate":
        return normalize(image_rewards), normalize(text_rewards)

    # Sample i of one task is paired with sample i of the other, so their numbers must be equal.
    if pairing not in PAIRINGS:
        raise UserError(f"unknown pairing {pairing!r}; expected one of {', '.join(PAIRINGS)}")
    if image_rewards.shape != text_rewards.shape:
        raise UserError(
            f"pairing {pairing!r} needs as many answers as images, but their shapes are "
            f"{text_rewards.shape} and {image_rewards.shape}; use equal numbers of text and image "
            "prompts, or choose pairing='separate'"
        )

    # Both tasks get the same advantages: of the sum of rewards, or the sum of advantages.
    if pairing == "unified":
        shared = normalize(image_rewards + text_weight * text_rewards)
    else:
        shared = normalize(image_rewards) + text_weight * normalize(text_rewards)
    return shared, shared


def zero_std_groups(
    totals: Mapping[str, np.ndarray],
    *,
    pairing: str,
    text_weight: float,
    is_silent: Callable[[np.ndarray], np.ndarray] = equal_rewards,
) -> dict[str, Bool[np.ndarray, "B"]]:
    """Groups in which all advantages are 0, as where all their rewards are equal.

    Args:
      totals: task to total rewards ``[B, G]``. With both tasks, ``pairing`` says which rewards make
        an advantage.
      pairing, text_weight: as in ``paired_advantages``.
      is_silent: from rewards to one flag per group, where the normalization has other such groups.

    Returns:
      task to one flag per group.
    """
    if pairing == "separate" or len(totals) == 1:
        return {task: is_silent(rewards) for task, rewards in totals.items()}

    # Paired tasks share their advantages, so they share their flags.
    image, text = totals["image"], totals["text"]
    shared = (
        is_silent(image + text_weight * text)
        if pairing == "unified"
        else is_silent(image) & is_silent(text)
    )
    return {"image": shared, "text": shared}
