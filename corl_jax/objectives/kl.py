"""KL divergence from the reference policy: estimators per token, schedules of the coefficient.

In: log-probs of the policy and of the reference policy; numbers of updates. Out: a divergence per
token; a coefficient, written ``beta`` in the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from corl_jax.core.checks.config_block import FieldError, Interval, OneOf, config_block
from corl_jax.core.registry import Registry
from corl_jax.core.types import pytree
from corl_jax.objectives.log_ratios import bounded_log_ratio

# Estimators of KL(pi || ref) from tokens that were sampled from pi (Schulman, "Approximating KL
# divergence", 2020). The expectation of k1 and of k3 over such tokens is the exact divergence.
estimators: Registry[Callable[[Array, Array], Array]] = Registry("KL estimator")


@estimators.register("k1")
def k1(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log pi - log ref``: unbiased, positive or negative.

    In a reward it is the exact penalty. In a loss its gradient, that of ``log pi`` alone, is 0 on
    average whatever the reference policy is, so ``KlConfig`` refuses it there.
    """
    return log_probs - ref_log_probs


@estimators.register("k2")
def k2(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``(log pi - log ref)**2 / 2``: biased, but its gradient is the gradient of the KL."""
    return 0.5 * jnp.square(log_probs - ref_log_probs)


@estimators.register("k3")
def k3(log_probs: Float[Array, "..."], ref_log_probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``ref / pi - log(ref / pi) - 1``: unbiased and never negative (OThink-MR1 Eq. 5).

    The log-ratio is bounded from above as in ``log_ratios``, so that value and gradient are finite.
    """
    log_ratio = bounded_log_ratio(ref_log_probs - log_probs)
    return jnp.exp(log_ratio) - log_ratio - 1


PLACEMENTS = ("loss", "reward")
"""Where the KL term is: in the loss of every token (GRPO), or taken off the rewards (PPO, RLOO)."""

OFF = "To train without a KL term, choose schedule=none"


@config_block
class KlConfig:
    """The coefficient of the KL term for one task.

    Attributes:
      schedule: of the coefficient over the updates; ``none`` trains without a KL term.
      start: the first coefficient; the constant one for ``constant``; beta_min for ``grpo_d``.
      end: the last coefficient; beta_max for ``grpo_d``. ``none``, ``constant`` and ``adaptive``
        ignore it.
      explore_fraction: for ``grpo_d`` and ``grpo_d_monotone``, the fraction of updates in the
        exploration phase, ``w / t``; 0.3 in the paper.
      target_kl: for ``adaptive``, the KL divergence per token that it steers to.
      adaptation_rate: for ``adaptive``, the largest relative change of the coefficient per update.
      estimator: of the divergence, from tokens that were sampled.
      placement: whether the term is in the loss of every token or taken off the rewards.
    """

    # Misspelt names should fail when the config is read, not in the first update.
    schedule: Annotated[str, OneOf(schedules)] = "none"
    start: Annotated[float, Interval(ge=0), OFF] = 0.0
    end: Annotated[float, Interval(ge=0), OFF] = 0.0
    explore_fraction: Annotated[float, Interval(gt=0, lt=1), "The paper has 0.3"] = 0.3
    target_kl: Annotated[float, Interval(gt=0)] = 0.05
    adaptation_rate: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    estimator: Annotated[str, OneOf(estimators)] = "k3"
    placement: Annotated[str, OneOf(PLACEMENTS)] = "loss"

    def __post_init__(self) -> None:
        # A coefficient that is not used, and a KL term whose coefficient stays 0, do nothing.
        if self.schedule == "none":
            if self.start:
                raise FieldError(
                    "start",
                    f"must be 0 with schedule=none, which has no KL term; got {self.start}. Choose "
                    "a schedule such as constant, or set it to 0",
                )
            return
        ignores_end = self.schedule in ("constant", "adaptive")
        if self.start == 0 and (ignores_end or self.end == 0):
            others = "" if ignores_end else ", or end must be,"
            raise FieldError(
                "start",
                f"must be above 0{others} with schedule={self.schedule}, whose coefficient cannot "
                f"leave 0 otherwise; got 0. {OFF}",
            )
        if (self.estimator, self.placement) == ("k1", "loss"):
            raise FieldError(
                "estimator",
                "must be k2 or k3 in the loss, where the gradient of k1 is 0 on average; got k1. "
                "Choose placement=reward to subtract k1 from the rewards",
            )

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL term, and so a reference policy."""
        return self.schedule != "none"

    @property
    def is_in_reward(self) -> bool:
        """Whether the KL term is subtracted from the rewards."""
        return self.needs_reference and self.placement == "reward"


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


@schedules.register("none")
def no_schedule(cfg: KlConfig, step: Step, coef: Scalar, kl: Scalar, total_steps: int) -> Scalar:
    """0 throughout."""
    return jnp.zeros((), jnp.float32)


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
