"""A reference policy that follows the one in training. In: the parameters of both; out: those of the reference after an
update."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.types import Params, pytree


@pytree("every", "mix")
class ReferencePolicy:
    """Part of the train state, so that a resumed run has the same one bit for bit.

    Attributes:
      params: of the reference, those that the policy trains; shaped, typed and placed like them.
      every: updates from one move to the next.
      mix: share of the policy in what the reference becomes: 1 is a copy.
    """

    params: Params
    every: int
    mix: float

    def after(self, trainable: Params, step: Any) -> ReferencePolicy:
        """``mix * policy + (1 - mix) * reference`` after every ``every`` updates, else the same (TR-DPO's soft update,
        Gorbatovski et al., 2024; ``sync_ref_model`` of TRL).

        Args:
          trainable: of the policy, after the update.
          step: int32 ``[]``, updates done, this one included.
        """

        def one(new: jax.Array, old: jax.Array) -> jax.Array:
            wide = jnp.promote_types(old.dtype, jnp.float32)
            return (self.mix * new.astype(wide) + (1 - self.mix) * old.astype(wide)).astype(
                old.dtype
            )

        moved = jax.lax.cond(
            step % self.every == 0, lambda new, old: jax.tree.map(one, new, old), lambda new, old: old,
            trainable, self.params,
        )  # fmt: skip
        return ReferencePolicy(moved, self.every, self.mix)
