"""Our side of ``bench step``: the programs of an RL step (rollouts of both tasks, update) on random weights.

In: a policy, prompts, a ``Work``. Out: a ``Step``; ``measure`` runs it beside torch. What the shapes of training do not
change is left out: rewards, records, and the reference, which is scored only where there is a KL term.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from corl_jax.bench.decode_contenders import check_torch, profiled
from corl_jax.bench.timing import (
    CLIP_NORM,
    GUIDANCE,
    LEARNING_RATE,
    Step,
    Work,
    in_turns,
    timed_step,
)
from corl_jax.bench.torch_baseline import TorchStep
from corl_jax.bench.workloads import random_folder, sample_prompts, sample_questions
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind, partition
from corl_jax.core.types import Params, PolicyBatch, Prompts, Rollout
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.engine.update import make_update
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import logical_axes
from corl_jax.objectives import kl
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.objectives.token_weights import token_weights
from corl_jax.rewards.config import RewardSettings
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.policy import Policy
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.rl.config import RlSettings
from corl_jax.stages.rl.loss import policy_loss


def settings(work: Work) -> RlSettings:
    """As ``configs/unified.py`` at full size, with answers of ``work``'s length."""
    none = kl.KlConfig()
    return RlSettings(
        pictures=work.prompts, questions=work.prompts, alternate=0, group=work.group, guidance=GUIDANCE,
        temperature=1.0, logprob_guidance="matched", image_logprob_alignment="aligned",
        image_prompt_length=0, text_prompt_length=0, completion_length=work.answer, pairing="unified",
        text_weight=0.8, baseline="mean", scale="group", aggregation="sequence_mean", clip="ppo",
        epsilon_low=0.2, epsilon_high=0.2, clip_ceiling=3.0,
        entropy_bonus={"image": 0.0, "text": 0.0}, image_weight=1.0, answer_weight=1.0,
        shared_prefix=("image", "text"), score_chunk=work.chunk, rollout_weights="same", rollout_cache="same",
        stale_rollouts=False, importance_cap=0.0, reference_every=0, reference_mix=0.6, refill=0,
        reward=RewardSettings(), rewards={}, kl={"image": none, "text": none},
    )  # fmt: skip


class OurStep:
    """See the head of this file. Rows lie over all of ``devices``, on the data axis."""

    def __init__(
        self,
        policy: Policy,
        image: Prompts,
        text: Prompts,
        ids: SpecialTokenIds,
        work: Work,
        devices: Sequence,
    ):
        self.sharder = sharder = Sharder(make_mesh({"data": -1}, devices))
        self.work, self.settings = work, settings(work)
        self.sampler = dataclasses.replace(policy.sampler, ids=ids)
        model = bind(self.sampler.graphdef, policy.params)
        axes = logical_axes(model)
        model.language_model.remat, model.language_model.unroll = work.remat, work.unroll
        learner = dataclasses.replace(self.sampler, graphdef=nnx.split(model)[0])
        placed = {
            path: jax.device_put(leaf, sharder.checked_sharding(leaf.shape, axes[path], path))
            for path, leaf in policy.params.items()
        }
        optim = make_optimizer(OptimConfig(LEARNING_RATE, total_steps=1, clip_norm=CLIP_NORM))
        algo = {task: kl.initial_kl_state(one, 1) for task, one in self.settings.kl.items()}
        self.state = create_state(*partition(placed, ["language_model/*"]), optim, algo)
        loss = functools.partial(policy_loss, learner, self.settings)
        self._update = make_update(
            loss, lambda algo, metrics: algo, optim, max(1, work.microbatches // len(devices))
        )
        self.prompts = {"image": sharder.put_batch(image), "text": sharder.put_batch(text)}

    def sample_images(self, turn: int) -> Rollout:
        """``Sampler.sample_images``."""
        args = self._arguments("image", turn)
        with sharding_context(self.sharder):
            return jax.block_until_ready(
                self.sampler.sample_images(*args, self.settings.guided_sampler)
            )

    def sample_text(self, turn: int) -> Rollout:
        """``Sampler.sample_text``."""
        args = self._arguments("text", turn)
        with sharding_context(self.sharder):
            return jax.block_until_ready(self.sampler.sample_text(*args, self.work.answer))

    def update(self, image: Rollout, text: Rollout) -> dict[str, float]:
        """``engine.update.Update`` with the loss of the RL stage; its metrics."""
        batch = {
            task: PolicyBatch(
                prompts=self.prompts[task],
                tokens=rollout.tokens,
                mask=rollout.mask,
                sampler_log_probs=rollout.log_probs,
                old_log_probs=None,
                ref_log_probs=None,
                advantages=self.work.advantages(),
                weights=token_weights(rollout.mask, aggregation=self.settings.aggregation),
            )
            for task, rollout in (("image", image), ("text", text))
        }
        with sharding_context(self.sharder):
            self.state, metrics = self._update(self.state, self.sharder.put_batch(batch))
        return {name: float(value.value) for name, value in jax.block_until_ready(metrics).items()}

    def _arguments(self, task: str, turn: int) -> tuple[Params, Prompts, Any, SamplingParams]:
        keys = prompt_keys(turn, f"bench/{task}", np.arange(self.work.prompts), self.work.group)
        return (
            self.state.params,
            self.prompts[task],
            keys,
            self.settings.sampling(self.sampler, task),
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """Medians of seconds by side (``ours``, maybe ``theirs``) and phase, seconds of our first step, torch's threads."""

    seconds: dict[str, dict[str, float]]
    first_step: float
    threads: dict[str, int] | None


def measure(
    cfg: JanusConfig,
    work: Work,
    repeats: int,
    devices: int | None = None,
    *,
    beside_torch: bool = True,
    log: Callable[[str], None] = lambda line: None,
    profile: pathlib.Path | None = None,
) -> Found:
    """Times ``repeats`` steps, ours and torch's in turns.

    Args:
      devices: how many share our side, the first ones; None for all.
      profile: where to write a JAX trace of one more step of ours, or None.

    Raises:
      UserError: fewer devices than wanted; torch is wanted and not installed, or does not see the device that JAX
        runs on.
    """
    seen = jax.devices()
    if devices is not None and devices > len(seen):
        raise UserError(
            f"{devices} devices are wanted, and JAX sees {len(seen)}; expected at most so many"
        )
    if beside_torch:
        check_torch()
    with tempfile.TemporaryDirectory() as where:
        folder = random_folder(cfg, pathlib.Path(where))
        log("random weights are written; loading ours, compiling")
        policy = Policy.load(folder)
        prompts = (
            sample_prompts(policy.tokenizer, work.prompts),
            sample_questions(policy.tokenizer, cfg, work.prompts),
        )
        ids = dataclasses.replace(
            policy.sampler.ids, banned=(*policy.sampler.ids.banned, policy.tokenizer.eos_id)
        )
        ours = OurStep(policy, *prompts, ids, work, seen[:devices])
        first = timed_step(ours, 0)["total"]
        sides: dict[str, Step] = {"ours": ours}
        log(f"first step of ours, compilation included: {first:.1f} s")
        if beside_torch:
            log("loading theirs, finding its best numbers of threads")
            theirs = TorchStep(folder, *prompts, ids, work)
            theirs.warm()
            sides["theirs"] = theirs
    seconds = in_turns(sides, repeats, log)
    profiled(lambda: timed_step(ours, 0), profile)
    threads = theirs.threads if beside_torch else None
    return Found(seconds, first, threads)
