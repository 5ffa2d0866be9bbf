"""Mini-batches: parts of one rollout, each for an update of its own (PPO; Schulman et al., 2017).

Every epoch goes through a rollout once, in an order of prompts that is a function of (seed, step,
epoch); the samples of a prompt stay together. Log-probs of the policy that sampled were computed
before the first update, for the whole rollout.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.rng import stream
from corl_jax.core.types import PolicyBatch
from corl_jax.objectives.token_weights import token_weights
from corl_jax.stages.rl.rollouts import RolloutSampler


@dataclasses.dataclass(frozen=True)
class Minibatches:
    """The parts of a rollout that ``config.rl.rollout.minibatches`` asks for.

    Attributes:
      rollout_sampler: of the stage; it knows the rows of a prompt on the mesh.
    """

    rollout_sampler: RolloutSampler

    def __call__(
        self, batch: dict[str, PolicyBatch], step: int, update: int
    ) -> dict[str, PolicyBatch]:
        """The part that an update trains on, on the mesh like the whole.

        Args:
          batch: task to the rows of the step.
          step: of the run.
          update: number within the step, from 0.
        """
        sampler, count = self.rollout_sampler, self.rollout_sampler.cfg.rollout.minibatches
        if count == 1:
            return batch

        parts = {}
        epoch, number = divmod(update, count)
        for task, whole in batch.items():
            prompts = sampler.cfg.rollout.prompts[task]
            # One key for both tasks, so that the image and the answer of a record stay together.
            key = stream(sampler.seed, f"minibatches {epoch}", step)
            order = np.asarray(jax.random.permutation(key, prompts)).reshape(count, -1)

            # On the mesh a prompt may have several rows.
            repeats = sampler.prompt_repeats(prompts)
            rows = (order[number][:, None] * repeats + np.arange(repeats)).reshape(-1)
            aggregation = sampler.cfg.loss.aggregation
            parts[task] = _take_rows(whole, rows.astype(np.int32), aggregation)
        return sampler.setup.sharder.put_batch(parts)


@functools.partial(jax.jit, static_argnames="aggregation")
def _take_rows(batch: PolicyBatch, rows: Int[Array, " M"], aggregation: str) -> PolicyBatch:
    """Some rows of a batch, whose tokens have the weights of a batch of their own."""
    part: PolicyBatch = jax.tree.map(lambda leaf: leaf[rows], batch)
    weights = minibatch_weights(part.weights, part.mask, aggregation)
    return dataclasses.replace(part, weights=weights)


def minibatch_weights(
    weights: Float[Array, "B G T"], mask: Bool[Array, "B G T"], aggregation: str
) -> Float[Array, "B G T"]:
    """Weights of some rows of a step, scaled to the sum that they would have as the whole step.

    Otherwise the number of mini-batches would be a hidden learning rate.

    Args:
      weights: from the whole step; completions whose tokens all have weight 0 do not count.
      mask: the completion mask.
      aggregation: a name in ``token_weights.aggregations``.
    """
    counted = mask & jnp.any(weights != 0, -1, keepdims=True)
    total = jnp.sum(weights)
    share = jnp.sum(token_weights(counted, aggregation=aggregation))
    return weights * jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 0)
