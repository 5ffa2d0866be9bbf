"""KL divergence from the reference policy: estimators per token, schedules of the coefficient.

In: log-probs of the policy and of the reference policy; numbers of updates. Out: a divergence per
token; a coefficient, written ``beta`` in the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.core.types import pytree

# Estimators of KL(pi || ref) from tokens that were sampled from pi (Schulman, "Approximating KL
# divergence", 2020). The expectation of k1 and of k3 over such tokens is the exact divergence.
estimators: Registry[Callable[[Array, Array], Array]] = Registry("KL estimator")


@estimators.register("k1")
def k1(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log pi - log ref``: unbiased, positive or negative."""
    return log_probs - ref_log_probs


@estimators.register("k2")
def k2(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``(log pi - log ref)**2 / 2``: biased, but its gradient is the gradient of the KL."""
    return 0.5 * jnp.square(log_probs - ref_log_probs)


@estimators.register("k3")
def k3(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``ref / pi - log(ref / pi) - 1``: unbiased and never negative (OThink-MR1 Eq. 5)."""
    log_ratio = ref_log_probs - log_probs
    return jnp.exp(log_ratio) - log_ratio - 1


@dataclasses.dataclass(frozen=True)
class KlConfig:
    """The coefficient of the KL term for one task.

    Attributes:
      schedule: a name in ``schedules``.
      start: the first coefficient; the constant one for ``constant``; beta_min for ``grpo_d``.
      end: the last coefficient; beta_max for ``grpo_d``. ``constant`` and ``adaptive`` ignore it.
      explore_fraction: for ``grpo_d`` and ``grpo_d_monotone``, the fraction of updates in the
        exploration phase, ``w / t``; 0.3 in the paper.
      target_kl: for ``adaptive``, the KL divergence per token that it steers to.
      adaptation_rate: for ``adaptive``, the largest relative change of the coefficient per update.
      estimator: a name in ``estimators``.
    """

    schedule: str = "constant"
    start: float = 0.0
    end: float = 0.0
    explore_fraction: float = 0.3
    target_kl: float = 0.05
    adaptation_rate: float = 0.1
    estimator: str = "k3"

    def __post_init__(self) -> None:
        # Misspelt names should fail when the config is read, not in the first update.
        schedules.require(self.schedule)
        estimators.require(self.estimator)
        if self.start < 0 or self.end < 0:
            raise UserError(
                f"kl.start and kl.end must be at least 0; got {self.start} and {self.end}. "
                "Set both to 0 to train without a KL term"
            )

        # The parameters of the schedules, also of those that are not chosen.
        if not 0 < self.explore_fraction < 1:
            raise UserError(
                "kl.explore_fraction must be a fraction of the updates, above 0 and below 1; "
                f"got kl.explore_fraction={self.explore_fraction}. The paper has 0.3"
            )
        if self.target_kl <= 0 or not 0 <= self.adaptation_rate < 1:
            raise UserError(
                "kl.target_kl must be above 0, and kl.adaptation_rate at least 0 and below 1; "
                f"got kl.target_kl={self.target_kl} and kl.adaptation_rate={self.adaptation_rate}"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the coefficient can ever differ from 0, so that a reference policy is needed."""
        # Two schedules never use ``end``.
        return self.start > 0 or (self.end > 0 and self.schedule not in ("constant", "adaptive"))


@pytree()
class KlState:
    """The KL coefficient of one task, saved in every checkpoint.

    Attributes:
      coef: float32 ``[]``, the coefficient of the next update.
      step: int32 ``[]``, updates done.
    """

    coef: Any
    step: Any


Step = Int[Array, ""]
Scalar = Float[Array, ""]

# ``(config, step, coef, kl, total_steps)`` to the coefficient of update ``step``.
#
# ``coef`` and ``kl`` are the coefficient and the mean KL divergence of the previous update.
# Schedules of the step alone ignore them.
Schedule = Callable[[KlConfig, Step, Scalar, Scalar, int], Scalar]

schedules: Registry[Schedule] = Registry("KL schedule")


@schedules.register("constant")
def constant_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """``start`` throughout."""
    return jnp.asarray(cfg.start, jnp.float32)


@schedules.register("linear")
def linear_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """A straight line from ``start`` at update 0 to ``end`` at the last one."""
    return cfg.start + (cfg.end - cfg.start) * jnp.clip(step / total_steps, 0, 1)


@schedules.register("cosine")
def cosine_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """Half a period of a cosine from ``start`` to ``end``."""
    return cfg.end + (cfg.start - cfg.end) * 0.5 * (
        1 + jnp.cos(jnp.pi * jnp.clip(step / total_steps, 0, 1))
    )


@schedules.register("grpo_d")
def grpo_d_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """OThink-MR1 Eq. 3, in the shape of a V.

    It falls from the mean of beta_min and beta_max to beta_min at update ``w``, then rises to
    beta_max at update ``t``.
    """
    # The paper's names: beta_min, beta_max, w; t is ``total_steps``.
    low, high, w = cfg.start, cfg.end, cfg.explore_fraction * total_steps
    middle = (low + high) / 2
    falling = middle - (middle - low) * step / w
    rising = low + (high - low) * (jnp.minimum(step, total_steps) - w) / (total_steps - w)
    return jnp.where(step <= w, falling, rising)


@schedules.register("grpo_d_monotone")
def grpo_d_monotone_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """OThink-MR1 as its text describes it: beta_min during exploration, then rising to beta_max."""
    w = cfg.explore_fraction * total_steps
    return cfg.start + (cfg.end - cfg.start) * jnp.clip((step - w) / (total_steps - w), 0, 1)


@schedules.register("adaptive")
def adaptive_schedule(
    cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int
) -> Scalar:
    """Proportional control: ``coef *= 1 + clip(kl / target_kl - 1, -1, 1) * adaptation_rate``."""
    # The clip bounds the change per update, however far the divergence is from its target.
    return coef * (1 + cfg.adaptation_rate * jnp.clip(kl / cfg.target_kl - 1, -1, 1))


def initial_kl_state(cfg: KlConfig, total_steps: int) -> KlState:
    """The state with the coefficient of the first update."""
    zero = jnp.zeros((), jnp.int32)
    # With the KL divergence on its target, ``adaptive`` begins at exactly ``start``.
    start, on_target = jnp.asarray(cfg.start, jnp.float32), jnp.asarray(cfg.target_kl, jnp.float32)
    coef = schedules[cfg.schedule](cfg, zero, start, on_target, total_steps)
    return KlState(_float(coef), zero)


def next_kl_state(cfg: KlConfig, state: KlState, kl: Scalar, total_steps: int) -> KlState:
    """The state with the coefficient of the next update. Pure; runs under ``jit``.

    Args:
      cfg: the schedule.
      state: of the update that is done.
      kl: ``[]``, mean KL divergence per token of that update.
      total_steps: updates of the run.
    """
    step = state.step + 1
    coef = schedules[cfg.schedule](cfg, step, state.coef, kl, total_steps)
    return KlState(_float(coef), step)


def _float(value: Scalar) -> jax.Array:
    return jnp.asarray(value, jnp.float32)
