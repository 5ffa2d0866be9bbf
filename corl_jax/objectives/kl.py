"""How far from the reference: estimators per token, and coefficients by schedule.

In: log-probs of policy and reference, step numbers. Out: divergence per token; a coefficient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.core.types import pytree

estimators: Registry[Callable[[Array, Array], Array]] = Registry("KL estimator")


@estimators.register("k1")
def k1(log_probs: Float[Array, "..."], ref: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log pi - log ref``: unbiased, of either sign."""
    return log_probs - ref


@estimators.register("k2")
def k2(log_probs: Float[Array, "..."], ref: Float[Array, "..."]) -> Float[Array, "..."]:
    """``(log pi - log ref)**2 / 2``: biased, its gradient is the gradient of the KL."""
    return 0.5 * jnp.square(log_probs - ref)


@estimators.register("k3")
def k3(log_probs: Float[Array, "..."], ref: Float[Array, "..."]) -> Float[Array, "..."]:
    """``ref / pi - log(ref / pi) - 1``: unbiased and never negative (OThink-MR1 Eq. 5)."""
    log_ratio = ref - log_probs
    return jnp.exp(log_ratio) - log_ratio - 1


@dataclasses.dataclass(frozen=True)
class KlConfig:
    """The coefficient of the KL term.

    Attributes:
      schedule: a name in ``schedules``.
      start, end: first and last value (``constant_schedule`` and ``adaptive_schedule`` start at ``start``; for ``grpo_d_schedule`` they are the
        paper's beta_min and beta_max).
      explore: share of the steps that ``grpo_d_schedule`` spends falling, ``w / t``, 0.3 in the paper.
      target: KL per token that ``adaptive_schedule`` steers to.
      rate: ``adaptive_schedule`` changes the coefficient by at most this fraction per step.
      estimator: a name in ``estimators``.
    """

    schedule: str = "constant"
    start: float = 0.0
    end: float = 0.0
    explore: float = 0.3
    target: float = 0.05
    rate: float = 0.1
    estimator: str = "k3"

    def __post_init__(self):
        schedules[self.schedule], estimators[self.estimator]
        if self.start < 0 or self.end < 0:
            raise UserError(f"KL coefficients {self.start} and {self.end} must be at least 0")
        if not 0 < self.explore < 1:
            raise UserError(
                f"kl.explore={self.explore} is out of range; expected a share between 0 and 1"
            )
        if self.target <= 0 or not 0 <= self.rate < 1:
            raise UserError(
                f"kl.target={self.target} and kl.rate={self.rate}: expected a target above 0 and a rate in [0, 1)"
            )

    @property
    def used(self) -> bool:
        """Whether the coefficient can ever differ from 0, so that a reference policy is needed."""
        return self.start > 0 or (self.end > 0 and self.schedule not in ("constant", "adaptive"))


@pytree()
class KlState:
    """State of one task's coefficient: ``coef [] `` now, ``step []`` updates seen. Saved with every checkpoint."""

    coef: Any
    step: Any


Schedule = Callable[[KlConfig, Any, Any, Any, int], Any]
schedules: Registry[Schedule] = Registry("KL schedule")


@schedules.register("constant")
def constant_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """``start`` throughout."""
    return jnp.asarray(cfg.start, jnp.float32)


@schedules.register("linear")
def linear_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """Straight from ``start`` at step 0 to ``end`` at the last step."""
    return cfg.start + (cfg.end - cfg.start) * jnp.clip(step / total, 0, 1)


@schedules.register("cosine")
def cosine_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """Half a cosine from ``start`` to ``end``."""
    return cfg.end + (cfg.start - cfg.end) * 0.5 * (
        1 + jnp.cos(jnp.pi * jnp.clip(step / total, 0, 1))
    )


@schedules.register("grpo_d")
def grpo_d_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """OThink-MR1 Eq. 3, V-shaped: from the middle down to beta_min at ``w``, then up to beta_max at ``t``."""
    low, high, w = cfg.start, cfg.end, cfg.explore * total
    middle = (low + high) / 2
    falling = middle - (middle - low) * step / w
    rising = low + (high - low) * (jnp.minimum(step, total) - w) / (total - w)
    return jnp.where(step <= w, falling, rising)


@schedules.register("grpo_d_monotone")
def grpo_d_monotone_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """The prose of OThink-MR1: beta_min during exploration, then rising to beta_max."""
    w = cfg.explore * total
    return cfg.start + (cfg.end - cfg.start) * jnp.clip((step - w) / (total - w), 0, 1)


@schedules.register("adaptive")
def adaptive_schedule(cfg: KlConfig, step: Any, coef: Any, kl: Any, total: int) -> Any:
    """Proportional control towards ``target``: ``coef *= 1 + clip(kl / target - 1, -1, 1) * rate``."""
    return coef * (1 + cfg.rate * jnp.clip(kl / cfg.target - 1, -1, 1))


def initial_kl_state(cfg: KlConfig, total: int) -> KlState:
    """The coefficient of the first update; ``adaptive_schedule`` begins at ``start``, as if the KL were on target."""
    zero = jnp.zeros((), jnp.int32)
    start, on_target = jnp.asarray(cfg.start, jnp.float32), jnp.asarray(cfg.target, jnp.float32)
    return KlState(_float(schedules[cfg.schedule](cfg, zero, start, on_target, total)), zero)


def next_kl_state(cfg: KlConfig, state: KlState, kl: Any, total: int) -> KlState:
    """The coefficient of the next update, given the mean KL per token of this one. Pure; runs under ``jit``."""
    step = state.step + 1
    return KlState(_float(schedules[cfg.schedule](cfg, step, state.coef, kl, total)), step)


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.float32)
