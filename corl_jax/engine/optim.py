"""AdamW, its learning-rate schedules and its decay mask.

In: an ``OptimConfig``. Out: an ``Optimizer`` whose learning rate is a function of the update alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corl_jax.core import trees
from corl_jax.core.checks.config_block import (
    Count,
    FieldError,
    Interval,
    OneOf,
    PositiveInt,
    Share,
    Weight,
    config_block,
)
from corl_jax.core.registry import Registry
from corl_jax.core.types import Params

# Number of updates done to learning rate.
Schedule = Callable[[Any], jax.Array]

# Name of a dtype to the dtype of the first moment; None takes that of the widened gradient.
FIRST_MOMENTS = {"float32": None, "bfloat16": jnp.bfloat16}

# How much of a moment is kept. At 1 the correction for its start would divide by 0.
Decay = Annotated[float, Interval(ge=0, lt=1)]


@config_block
class OptimConfig:
    """AdamW and its schedule. All counts of steps are counts of updates.

    Attributes:
      learning_rate: the peak of the learning rate.
      total_steps: updates after which ``linear`` and ``cosine`` reach their end; ``constant``
        ignores it.
      warmup_steps: update ``i`` of these has ``(i + 1) / warmup_steps`` of the peak.
      schedule: what follows the warm-up: ``constant``, ``linear`` or ``cosine``.
      final_fraction: the last learning rate as a fraction of the peak.
      b1, b2: decay of the first and of the second moment of Adam.
      eps: added to the root of Adam's second moment.
      weight_decay: decoupled; applied to arrays of rank 2 and more that ``no_decay`` does not name.
      no_decay: path patterns that never decay. They are needed for norms, which have a second axis
        where layers are stacked.
      clip_norm: largest global norm of the gradient; 0 for no clipping.
      first_moment_dtype: ``float32``, or ``bfloat16`` to hold the mean of gradients in half the
        memory. The second moment stays in float32, since its change per update is smaller than
        bfloat16 can hold.
    """

    learning_rate: Weight
    total_steps: PositiveInt
    warmup_steps: Count = 0
    schedule: Annotated[str, OneOf(schedules)] = "constant"
    final_fraction: Share = 0.0
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Annotated[float, Interval(gt=0)] = 1e-8
    weight_decay: Weight = 0.0
    no_decay: tuple[str, ...] = ("*scale", "*bias")
    clip_norm: Weight = 1.0
    first_moment_dtype: Annotated[str, OneOf(FIRST_MOMENTS)] = "float32"

    def __post_init__(self):
        # A constant rate has no end, so it may be shorter than its warm-up.
        if self.warmup_steps >= self.total_steps and self.schedule != "constant":
            raise FieldError(
                "warmup_steps",
                f"must be less than total_steps={self.total_steps} for the {self.schedule} "
                f"schedule; got {self.warmup_steps}",
            )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The direction of an update and its learning rate, separately.

    The learning rate thus follows ``TrainState.step`` and no counter inside the optimizer state.

    Attributes:
      init: trainable parameters to moments, in float32 or wider unless the config says otherwise.
      direction: ``(gradients, opt_state, params) -> (direction, opt_state)``, without the learning
        rate and the minus sign.
      learning_rate: update to learning rate.
    """

    init: Callable[[Params], Any]
    direction: Callable[[Params, Any, Params], tuple[Params, Any]]
    learning_rate: Schedule


# ``(config, decay_steps)`` to the schedule after the warm-up, counted from its end.
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
    """The learning-rate schedule, warm-up first."""
    # A constant rate may be shorter than its warm-up.
    decay = schedules[cfg.schedule](cfg, max(cfg.total_steps - cfg.warmup_steps, 1))
    if cfg.warmup_steps == 0:
        return decay

    # Update 0 has 1 / warmup_steps of the peak and not 0, so that no update is wasted.
    warmup = optax.linear_schedule(
        cfg.learning_rate / cfg.warmup_steps, cfg.learning_rate, cfg.warmup_steps - 1
    )
    # A line needs two points.
    if cfg.warmup_steps == 1:
        warmup = optax.constant_schedule(cfg.learning_rate)
    return optax.join_schedules([warmup, decay], [cfg.warmup_steps])


def decay_mask(params: Params, no_decay: tuple[str, ...]) -> dict[str, bool]:
    """Which parameters decay: those of rank 2 and more that ``no_decay`` does not name."""
    # Biases and norms have rank 1, or are named by the patterns where layers are stacked.
    return {
        path: leaf.ndim >= 2 and not trees.matches(path, no_decay) for path, leaf in params.items()
    }


def make_optimizer(cfg: OptimConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) in float32, with clipping of the global norm."""
    # Clipping comes first, so that the moments only see clipped gradients.
    clip = optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm else optax.identity()

    # The first moment over the root of the second, both corrected for their start at 0.
    adam = optax.scale_by_adam(
        b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, mu_dtype=FIRST_MOMENTS[cfg.first_moment_dtype]
    )

    # Decoupled decay is added after Adam's division, which would otherwise rescale it.
    decay = optax.identity()
    if cfg.weight_decay:
        decay = optax.add_decayed_weights(
            cfg.weight_decay, mask=lambda params: decay_mask(params, cfg.no_decay)
        )
    chain = optax.chain(clip, adam, decay)

    # Gradients and parameters may be bfloat16; moments and direction are float32.
    return Optimizer(
        init=lambda params: chain.init(widen(params)),
        direction=lambda grads, opt_state, params: chain.update(
            widen(grads), opt_state, widen(params)
        ),
        learning_rate=make_schedule(cfg),
    )


def widen(tree: PyTree[jax.Array]) -> PyTree[jax.Array]:
    """The same arrays in float32, or in their own dtype where that is wider."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)
