"""Moves the advantage of an image between its tokens (``config.rl.loss.image_credit``).

Tokens are compared within a group, whose samples may be on several devices. So code vectors of the
whole step come to the host, as rewards do, and every process computes the factors of all samples.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from corl_jax.core.sharding import to_host
from corl_jax.core.types import Params, PolicyBatch, PromptBatch, Rollout
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.image_credit import group_similarity, others, token_factors
from corl_jax.stages.rl.rollouts import RolloutSampler


@dataclasses.dataclass(frozen=True)
class ImageCredit:
    """Fills in the factors of a ``PolicyBatch`` of images.

    Attributes:
      rollout_sampler: of the stage.
    """

    rollout_sampler: RolloutSampler

    def __call__(
        self,
        params: Params,
        prompts: PromptBatch,
        rollout: Rollout,
        part: PolicyBatch,
        advantages: Float[Array, "B G"],
    ) -> tuple[PolicyBatch, HostMetrics]:
        """``part`` with this process's rows of the factors, and metrics.

        Args:
          params: of the policy that sampled.
          prompts, rollout: of the step, on the mesh.
          part: with log-probs of the reference policy where ``third`` needs them.
          advantages: of all samples of the step.
        """
        sampler = self.rollout_sampler
        credit = sampler.cfg.loss.image_credit
        policy = sampler.setup.policy_for(params)
        vectors = self._grouped(policy.code_vectors(params, rollout.tokens))
        similarity = float(group_similarity(vectors, others(vectors)).mean())

        # Entropies cost a pass of their own, also where old log-probs are computed.
        entropies = log_ratios = None
        if credit == "third":
            on_mesh = sampler.log_probs_and_entropies(params, "image", prompts, rollout)
            log_probs, entropies, ref_log_probs = map(self._grouped, (*on_mesh, part.ref_log_probs))
            log_ratios = log_probs - ref_log_probs
        factors = token_factors(credit, vectors, np.asarray(advantages), entropies, log_ratios)

        samples = len(vectors) * vectors.shape[1]
        local: dict[str, Any] = {
            f"{name}_factors": sampler.local_values("image", values.reshape(samples, -1))
            for name, values in vars(factors).items()
        }
        return dataclasses.replace(part, **local), {"image/group_similarity": similarity}

    def _grouped(self, rows: jax.Array) -> np.ndarray:
        """Rows ``[B * f, G / f, ...]`` of all processes as ``[B, G, ...]``."""
        group_size = self.rollout_sampler.cfg.rollout.group_size
        return to_host(rows).reshape(-1, group_size, *rows.shape[2:])
