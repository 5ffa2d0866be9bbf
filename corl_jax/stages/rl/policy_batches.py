"""The update batch of a step: its rollouts with log-probs, token weights and advantages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.types import Params, PolicyBatch, Rewards, Rollout
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.token_weights import without_truncated
from corl_jax.stages.rl.image_credit import ImageCredit
from corl_jax.stages.rl.part_weights import part_weights
from corl_jax.stages.rl.parts import PARTS
from corl_jax.stages.rl.rollouts import RolloutBatch, RolloutSampler


@dataclasses.dataclass(frozen=True)
class PolicyBatches:
    """Makes the update batch, in two turns: the host computes rewards between them.

    Attributes:
      rollout_sampler: of the stage.
      updates_per_step: on each rollout.
    """

    rollout_sampler: RolloutSampler
    updates_per_step: int

    def scored(
        self, params: Params, reference: Params, batch: RolloutBatch
    ) -> dict[str, PolicyBatch]:
        """The batch by part, advantages excepted.

        Args:
          params: of the policy that sampled; with adapters not the merged copy.
          reference: of the reference policy; {} for none.
          batch: on the mesh.
        """
        sampler = self.rollout_sampler
        masks = {
            part: self.counted_tokens(part, rollout) for part, rollout in batch.rollouts.items()
        }
        weights = part_weights(sampler.cfg, masks)
        parts = {}
        for part, rollout in batch.rollouts.items():
            prompts = batch.prompts[part]
            old_log_probs = ref_log_probs = None
            if self.needs_old_log_probs(part):
                old_log_probs = sampler.log_probs(params, part, prompts, rollout)
            if reference:
                ref_log_probs = sampler.log_probs(reference, part, prompts, rollout)
            parts[part] = PolicyBatch.build(
                prompts.prompts,
                rollout,
                weights=weights[part],
                old_log_probs=old_log_probs,
                ref_log_probs=ref_log_probs,
            )
        return parts

    def with_advantages(
        self,
        parts: Mapping[str, PolicyBatch],
        params: Params,
        batch: RolloutBatch,
        advantages: Mapping[str, Float[Array, "B G"]],
        rewards: Mapping[str, Rewards],
    ) -> tuple[dict[str, PolicyBatch], HostMetrics]:
        """The whole batch, this process's rows of what the host computed, and metrics.

        Args:
          parts: from ``scored``, as are ``params`` and ``batch``.
          advantages, rewards: of all samples, by part that earns rewards.
        """
        cfg, local_values = self.rollout_sampler.cfg, self.rollout_sampler.local_values
        whole: dict[str, PolicyBatch] = {}
        metrics: HostMetrics = {}
        for part, rows in parts.items():
            rewarded = PARTS[part].rewards
            values: dict[str, Any] = {
                "advantages": local_values(part, np.ravel(advantages[rewarded]))
            }
            # Only tasks keep moments of their rewards.
            if cfg.reward_options.normalization == "running" and part in cfg.tasks:
                values["rewards"] = local_values(part, rewards[rewarded].matrix)
            whole[part] = dataclasses.replace(rows, **values)

        if "image" in whole and cfg.loss.image_credit != "uniform":
            whole["image"], metrics = ImageCredit(self.rollout_sampler)(
                params,
                batch.prompts["image"],
                batch.rollouts["image"],
                whole["image"],
                advantages["image"],
            )
        return whole, metrics

    def counted_tokens(self, part: str, rollout: Rollout) -> Bool[Array, "B G T"]:
        """The tokens that the loss counts: those that were sampled, of all or of whole answers."""
        cfg, tokenizer = self.rollout_sampler.cfg, self.rollout_sampler.setup.tokenizer
        is_answer = PARTS[part].modality == "text" and part != "plan"
        if not is_answer or not cfg.loss.mask_truncated_completions:
            return rollout.mask
        return without_truncated(rollout.mask, rollout.tokens, tokenizer.eos_id)

    def needs_old_log_probs(self, part: str) -> bool:
        """Whether log-probs of the policy that sampled are computed before the update.

        They are needed where a rollout is used for several updates, since in the first one the
        policy is the one that sampled; and for a KL term in the rewards.
        """
        kl = self.rollout_sampler.cfg.kl[PARTS[part].task]
        return self.updates_per_step > 1 or kl.is_in_reward
