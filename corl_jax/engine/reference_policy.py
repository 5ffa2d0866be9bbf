"""A reference policy for the KL term that follows the policy in training, at intervals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from corl_jax.core.types import Params, pytree


@pytree("every", "mix")
class ReferencePolicy:
    """The reference policy. It is part of the train state, so a resumed run has the same one.

    Attributes:
      params: parameters of the reference: those that the policy trains, with equal shapes, dtypes
        and shardings.
      every: updates from one move of the reference to the next.
      mix: weight of the policy in the new reference; 1 makes it a copy of the policy.
    """

    params: Params
    every: int
    mix: float

    def follow(self, trainable: Params, step: Int[Array, ""] | int) -> ReferencePolicy:
        """The reference policy after an update.

        After every ``every`` updates it is ``mix * policy + (1 - mix) * reference``, else it stays
        as it is (the soft update of TR-DPO, Gorbatovski et al., 2024; ``sync_ref_model`` of TRL).

        Args:
          trainable: parameters of the policy after the update.
          step: int32 ``[]``, updates done, including this one.
        """

        # In float32 or wider, since bfloat16 would round small moves away.
        def interpolate(new: jax.Array, old: jax.Array) -> jax.Array:
            wide = jnp.promote_types(old.dtype, jnp.float32)
            return (self.mix * new.astype(wide) + (1 - self.mix) * old.astype(wide)).astype(
                old.dtype
            )

        # ``step`` is traced, so both cases are in the one compiled update.
        params = jax.lax.cond(
            step % self.every == 0,
            lambda new, old: jax.tree.map(interpolate, new, old),
            lambda new, old: old,
            trainable,
            self.params,
        )
        return ReferencePolicy(params, self.every, self.mix)
