"""How well the tokens of an image and of a text match, from the states of a policy (CoRL Eq. 4)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def matching_scores(
    states: Float[Array, "N P D"], is_image: Bool[Array, "N P"], is_text: Bool[Array, "N P"]
) -> Float[Array, "N"]:
    """``(mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)) / 2`` in [-1, 1] (CoRL Eq. 4).

    Args:
      states: of all positions of a sequence.
      is_image, is_text: which positions are tokens ``i`` of the image, and ``t`` of the text; some
        of each in every row.
    """
    # Unit vectors, so that one product gives the cosines of all pairs. In full precision, where a
    # TPU would multiply float32 in bfloat16.
    wide = states.astype(jnp.float32)
    unit = wide / jnp.maximum(jnp.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    cosine_NIT = jnp.einsum("NID,NTD->NIT", unit, unit, precision="highest")
    pairs_NIT = is_image[:, :, None] & is_text[:, None, :]
    cosine_NIT = jnp.where(pairs_NIT, cosine_NIT, -jnp.inf)

    # The best text token for each image token, and the best image token for each text token.
    best_text = jnp.mean(jnp.max(cosine_NIT, 2), 1, where=is_image)
    best_image = jnp.mean(jnp.max(cosine_NIT, 1), 1, where=is_text)
    return (best_text + best_image) / 2
