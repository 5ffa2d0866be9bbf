"""A coefficient of the entropy that steers it towards a target (ReasonGen-R1, arXiv 2505.24875).

In: the mean entropy of an update. Out: ``alpha``, which multiplies the entropy in the loss: above the
target it grows, so that entropy costs, below it falls under 0, so that entropy pays. It is
``sinh(psi)``, and Adam moves ``psi`` along the gradient of ``-alpha (H - target)``.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.types import pytree

B1, B2, EPS = 0.9, 0.999, 1e-8
"""Of Adam."""


@pytree()
class EntropyState:
    """The coefficient of one task, saved in every checkpoint.

    Attributes:
      psi: float32 ``[]``.
      first_moment, second_moment: float32 ``[]``, of Adam.
      step: int32 ``[]``, updates of the task that are done.
    """

    psi: Any
    first_moment: Any
    second_moment: Any
    step: Any

    def coefficient(self, limit: float) -> Float[Array, ""]:
        """``alpha``, at most ``limit`` on either side of 0."""
        return jnp.clip(jnp.sinh(self.psi), -limit, limit)


def initial_entropy_state() -> EntropyState:
    """The state before the first update, whose coefficient is 0."""
    # Arrays of their own, since an update donates each of them.
    psi, first_moment, second_moment = (jnp.zeros((), jnp.float32) for _ in range(3))
    return EntropyState(psi, first_moment, second_moment, jnp.zeros((), jnp.int32))


def next_entropy_state(
    state: EntropyState, entropy: Float[Array, ""], target: float, rate: float, limit: float
) -> EntropyState:
    """The state after an update. Pure; runs under ``jit``.

    In the authors' code the clip stops the gradient, so that a coefficient at its limit stays there.
    Here ``psi`` ends where the coefficient does, and returns as soon as the entropy asks for it.

    Args:
      state: of the update that is done.
      entropy: mean entropy per token of that update, nats.
      target: that it is steered to, nats.
      rate: of Adam; about what ``alpha`` changes per update while the sign stays.
      limit: of ``alpha``.
    """
    gradient = -jnp.cosh(state.psi) * (entropy - target)
    step = state.step + 1
    first = B1 * state.first_moment + (1 - B1) * gradient
    second = B2 * state.second_moment + (1 - B2) * gradient**2

    # Both moments start at 0, which a division takes out again.
    direction = (first / (1 - B1**step)) / (jnp.sqrt(second / (1 - B2**step)) + EPS)
    bound = jnp.arcsinh(jnp.float32(limit))
    psi = jnp.clip(state.psi - rate * direction, -bound, bound)
    return EntropyState(psi, first, second, step)
