"""Schedules, decay mask and AdamW.

In: a frozen ``OptimConfig``. Out: an ``Optimizer`` whose scheduled part is a function of the step alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from corl_jax.core import trees
from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.core.types import Params

Schedule = Callable[[Any], jax.Array]
FIRST_MOMENTS = {"float32": None, "bfloat16": jnp.bfloat16}
"""Types of the first moment by name; None is the type of the widened gradient."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule. All step counts are updates.

    Attributes:
      learning_rate: the peak.
      total_steps: where ``linear`` and ``cosine`` arrive at their end; ``constant`` does not read it.
      warmup_steps: update ``i`` of these runs at ``(i + 1) / warmup_steps`` of the peak.
      schedule: ``constant``, ``linear`` or ``cosine``, what follows the warm-up.
      final_fraction: end of the decay as a fraction of the peak.
      b1, b2, eps: of Adam.
      weight_decay: decoupled, on arrays of rank 2 and more that ``no_decay`` does not name.
      no_decay: path patterns that are never decayed (stacked layers give norms a second axis).
      clip_norm: largest global norm of the gradient; 0 leaves it alone.
      first_moment_dtype: ``float32``, or ``bfloat16`` to hold the mean of gradients in half the memory; the second
        moment stays in float32, since it moves by less per update than bfloat16 can hold.
    """

    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    schedule: str = "constant"
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ("*scale", "*bias")
    clip_norm: float = 1.0
    first_moment_dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Optax direction and learning rate kept apart, so that the rate follows ``TrainState.step`` and nothing else.

    Attributes:
      init: trainable parameters to moments, in float32 or wider where the config does not say otherwise.
      direction: ``(gradients, opt_state, params) -> (direction, opt_state)``, before the learning rate and the sign.
      learning_rate: step to rate.
    """

    init: Callable[[Params], Any]
    direction: Callable[[Params, Any, Params], tuple[Params, Any]]
    learning_rate: Schedule


schedules: Registry[Callable[[OptimConfig, int], Schedule]] = Registry("learning-rate schedule")


@schedules.register("constant")
def _constant(cfg: OptimConfig, decay_steps: int) -> Schedule:
    return optax.constant_schedule(cfg.learning_rate)


@schedules.register("linear")
def _linear(cfg: OptimConfig, decay_steps: int) -> Schedule:
    return optax.linear_schedule(
        cfg.learning_rate, cfg.learning_rate * cfg.final_fraction, decay_steps
    )


@schedules.register("cosine")
def _cosine(cfg: OptimConfig, decay_steps: int) -> Schedule:
    return optax.cosine_decay_schedule(cfg.learning_rate, decay_steps, alpha=cfg.final_fraction)


def make_schedule(cfg: OptimConfig) -> Schedule:
    """Step to learning rate.

    Raises:
      UserError: unknown schedule, or no update left after the warm-up.
    """
    decay = schedules[cfg.schedule]
    left = cfg.total_steps - cfg.warmup_steps
    if cfg.warmup_steps < 0 or (left < 1 and cfg.schedule != "constant"):
        raise UserError(
            f"warmup_steps={cfg.warmup_steps} leaves nothing of total_steps={cfg.total_steps} "
            f"for the {cfg.schedule} schedule; expected 0 <= warmup_steps < total_steps"
        )
    after = decay(cfg, max(left, 1))
    if cfg.warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(
        cfg.learning_rate / cfg.warmup_steps, cfg.learning_rate, cfg.warmup_steps - 1
    )
    if cfg.warmup_steps == 1:
        warmup = optax.constant_schedule(cfg.learning_rate)
    return optax.join_schedules([warmup, after], [cfg.warmup_steps])


def decay_mask(params: Params, no_decay: tuple[str, ...]) -> dict[str, bool]:
    """Which parameters weight decay touches: rank 2 and more, not named by ``no_decay``."""
    return {
        path: leaf.ndim >= 2 and not trees.matches(path, no_decay) for path, leaf in params.items()
    }


def make_optimizer(cfg: OptimConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) in float32 with global-norm clipping.

    Raises:
      UserError: see ``make_schedule``, a learning rate or clip norm below 0, and an unknown type.
    """
    for name in ("learning_rate", "clip_norm", "weight_decay"):
        value = getattr(cfg, name)
        if not value >= 0:
            raise UserError(f"optim.{name}={value} is out of range; expected 0 or more")
    if cfg.first_moment_dtype not in FIRST_MOMENTS:
        raise UserError(
            f"optim.first_moment_dtype={cfg.first_moment_dtype!r} is unknown; "
            f"expected one of {', '.join(FIRST_MOMENTS)}"
        )
    chain = optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity(),
        optax.scale_by_adam(
            b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, mu_dtype=FIRST_MOMENTS[cfg.first_moment_dtype]
        ),
        optax.add_decayed_weights(
            cfg.weight_decay, mask=lambda params: decay_mask(params, cfg.no_decay)
        )
        if cfg.weight_decay
        else optax.identity(),
    )
    return Optimizer(
        init=lambda params: chain.init(widen(params)),
        direction=lambda grads, opt_state, params: chain.update(
            widen(grads), opt_state, widen(params)
        ),
        learning_rate=make_schedule(cfg),
    )


def widen(tree: Any) -> Any:
    """Leaves in float32, or as wide as they already are."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)
