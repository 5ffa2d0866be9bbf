"""Reinforcement learning of both tasks: ask, sample, score, compare within the group, update.

    records -> prompts -> rollouts -> rewards -> advantages -> weighted surrogate + KL -> update

Serves the unified stage (both tasks), refinements (one task, by asking 0 of the other) and training by turns, where a
step asks, samples and updates one task alone (``rl.alternate``): which one is a function of the step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.numerics import Metrics
from corl_jax.core.trees import partition
from corl_jax.core.types import Params, PolicyBatch, PromptBatch, Rewards, Rollout
from corl_jax.data.pipeline import PairWithNext, batches
from corl_jax.data.sources import RecordSource
from corl_jax.engine.hooks import Every, Hook, Report
from corl_jax.engine.image_grid import image_grid
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.reference_policy import ReferencePolicy
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state, merge
from corl_jax.objectives import advantages, kl
from corl_jax.objectives.running_moments import empty_moments
from corl_jax.objectives.token_weights import token_weights
from corl_jax.stages.config import HookSettings
from corl_jax.stages.rl.config import RlSettings, read_settings
from corl_jax.stages.rl.grad_interference import GradInterference
from corl_jax.stages.rl.loss import policy_loss, reward_sums
from corl_jax.stages.rl.probe import HeldOutProbe
from corl_jax.stages.rl.resample import DynamicSampling
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.rl.rollouts import RolloutSampler
from corl_jax.stages.setup import Setup, open_records
from corl_jax.tasks.base import Task
from corl_jax.tasks.joint import Joint
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


class RlStage:
    """GRPO over one or both tasks; see the head of this file."""

    name = "rl"

    def __init__(self, config: Mapping[str, Any], parts: Setup, optimizer: Optimizer):
        self.parts, self.optimizer, self.seed = parts, optimizer, config["seed"]
        self.trainable, self.updates = (
            parts.trainable(config["trainable"]),
            config["updates_per_step"],
        )
        parts.check(trainable=self.trainable)
        self.steps, self.total = config["steps"], config["steps"] * self.updates
        self.settings: RlSettings = read_settings(config, self.updates)
        self.rollouts = RolloutSampler(
            parts, self.settings, self.seed, self.steps, config["microbatches"]
        )
        self._records = functools.partial(open_records, config)
        s, cfg = self.settings, parts.cfg
        drawing = TextToImage(parts.tokenizer, s.image_prompt_length)
        asking = VisualQA(
            parts.tokenizer, cfg.image_tokens, cfg.vision.image_size, s.text_prompt_length
        )

        def joint(s: RlSettings, rollouts: RolloutSampler) -> Joint:
            return Joint(drawing, asking, s.pictures, s.questions, rollouts.share, s.alternate)

        self.joint = joint(s, self.rollouts)
        tasks: dict[str, Task] = {"image": drawing, "text": asking}
        self.judge = RewardScorer(parts, s, tasks)
        self.probing, self.comparing = (
            config["hooks"]["probe_every"],
            config["hooks"]["interference_every"],
        )
        self.probe = HeldOutProbe(
            parts, s, self.judge, joint, lambda split: self._records(split), self.seed
        )
        self.interference = GradInterference(self.one_loss, config["microbatches"])
        self.refill = DynamicSampling(
            self.joint, self.rollouts, self.judge, lambda: self.train, self.seed
        )
        self.rows = {"pictures": s.pictures, "questions": s.questions}
        self.sheet: tuple[np.ndarray, list[str]] | None = None
        self.reference: Params = {}

    @functools.cached_property
    def train(self) -> RecordSource:
        """What is asked, built or opened when first looked at."""
        return self._records("train")

    def init(self) -> TrainState:
        """The handed-off policy; a copy of its trainable part is the reference, inside where it follows, else aside."""
        trainable, frozen = partition(self.parts.params(), self.trainable)
        s = self.settings
        aside = s.needs_reference and (
            s.reference_every or not self.parts.lora.rank
        )  # else the base itself
        copy = jax.tree.map(jnp.copy, trainable) if aside else {}  # updates donate the original
        follower, behind = self.follower(copy), s.stale_rollouts
        self.reference = merge(copy, frozen) if copy and follower is None else {}
        return create_state(
            trainable, frozen, self.optimizer, self.algo(), keep_previous=behind, reference=follower
        )

    def follower(self, trainable: Params) -> ReferencePolicy | None:
        """A reference over these parameters that follows the policy, or None where it stays."""
        s = self.settings
        every = s.reference_every * self.updates
        return ReferencePolicy(trainable, every, s.reference_mix) if every else None

    def reference_in(self, state: TrainState) -> Params:
        """What the KL is measured from; empty where its coefficient is 0 throughout.

        Under adapters that is the base, which never moves and lies here already.
        """
        if state.reference is not None:
            return merge(state.reference.params, state.frozen)
        return (
            state.frozen
            if self.settings.needs_reference and self.parts.lora.rank
            else self.reference
        )

    def algo(self) -> dict[str, Any]:
        """By task the state of its KL coefficient; under ``rewards``, where they are standardised, their moments."""
        s = self.settings
        algo: dict[str, Any] = {
            task: kl.initial_kl_state(s.kl[task], self.total) for task in s.asked
        }
        if s.reward.normalise == "running":
            algo["rewards"] = {task: empty_moments(len(s.rewards[task])) for task in s.asked}
        return algo

    def open(self) -> None:
        """Reads reward models and records, before anything is written."""
        self.judge.open()
        if self.probing:
            self.probe.open()
        len(self.train)

    def data(self) -> grain.DatasetIterator:
        """Records asked both ways; with stale rollouts each batch beside the next."""
        found = batches(
            self.train, seed=self.seed, batch_size=self.joint.batch_size, transform=self.joint
        )
        return PairWithNext(found) if self.settings.stale_rollouts else found

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """One training step up to the update: this is the screen to read.

        What the device is to do is handed to it first; rewards are computed meanwhile, task by task as they come.
        """
        params, reference = self.parts.for_rollout(state.params), self.reference_in(state)
        drawn = self.rollouts.step_rollouts(state, params, raw, step)
        judged = None
        if self.settings.refill:  # what is drawn in the end depends on the rewards
            judged = self.refill(params, self.judge.judged(params, drawn))
            drawn = judged.drawn
        asked, trained = drawn.asked, state.params if self.parts.lora.rank else params
        batch = {
            task: PolicyBatch(
                prompts=asked[task].prompts,
                tokens=rollout.tokens,
                mask=rollout.mask,
                sampler_log_probs=rollout.log_probs,
                old_log_probs=self.rollouts.log_probs(trained, task, asked[task], rollout)
                if self.updates > 1
                else None,
                ref_log_probs=self.rollouts.log_probs(reference, task, asked[task], rollout)
                if reference
                else None,
                advantages=None,
                weights=token_weights(rollout.mask, aggregation=self.settings.aggregation),
            )
            for task, rollout in drawn.rollouts.items()
        }
        judged = judged or self.judge.judged(params, drawn)
        own, said, scores = judged.local_rows, judged.said, {}
        for task, found in judged.scores.items():
            scores[task] = self.judge.standardised(task, found, state.algo)
            if self.settings.reward.normalise == "running":
                values = self.rollouts.rows_of(task, found.matrix)
                batch[task] = dataclasses.replace(batch[task], rewards=values)
        del params, trained, reference, drawn, judged  # the update needs their room
        for task, advantage in self.advantages(scores).items():
            batch[task] = dataclasses.replace(
                batch[task], advantages=self.rollouts.rows_of(task, np.ravel(advantage))
            )
        batch = self.parts.sharder.put_batch(batch)
        metrics = self.judge.metrics(scores) | self.lengths(own) | said
        if self.comparing and (step + 1) % self.comparing == 0:
            metrics |= self.interference(state, batch)
        if "image" in own:
            self.sheet = self.label_pictures(asked["image"], own["image"], scores["image"])
        for _ in range(self.updates):
            yield batch, metrics

    def advantages(self, scores: Mapping[str, Rewards]) -> dict[str, jax.Array]:
        """``[B, G]`` per task, paired as the settings say; the same on every process."""
        s = self.settings
        totals = {task: jnp.asarray(one.total).reshape(-1, s.group) for task, one in scores.items()}
        if len(totals) == 1:
            return {
                task: advantages.normalizations[s.scale](total, s.baseline)
                for task, total in totals.items()
            }
        how: dict[str, Any] = {
            "scale": s.scale,
            "baseline": s.baseline,
            "text_weight": s.text_weight,
        }
        image, text = advantages.paired_advantages(
            totals["image"], totals["text"], pairing=s.pairing, **how
        )
        return {"image": image, "text": text}

    def lengths(self, rollouts: Mapping[str, Rollout]) -> HostMetrics:
        """Mean length of answers in tokens."""
        if "text" not in rollouts:
            return {}
        lengths = self.parts.sharder.all_gather_rows(rollouts["text"].mask.sum((-2, -1)))
        return {
            "text/completion_length": float(lengths.sum() / (self.settings.questions * self.settings.group))
        }

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Sum of the tasks' weighted losses."""
        return policy_loss(self.parts.learner, self.settings, params, batch, algo)

    def one_loss(self, params: Params, task: str, part: PolicyBatch, algo: Any) -> jax.Array:
        """One task's part of ``loss``."""
        return policy_loss(self.parts.learner, self.settings, params, {task: part}, algo)[0]

    def after(self, algo: Any, metrics: Metrics) -> Any:
        """Moves all KL coefficients, whoever's turn it was, and adds the step's rewards to their moments."""
        s, moved = self.settings, dict(algo)
        if s.needs_reference:
            for task in s.asked:
                name, on_target = f"{task}/kl", s.kl[task].target
                seen = metrics[name].value if name in metrics else on_target
                moved[task] = kl.next_kl_state(s.kl[task], algo[task], seen, self.total)
        if "rewards" in algo:
            moved["rewards"] = {
                task: seen.with_sums(*reward_sums(metrics, task, tuple(s.rewards[task])))
                if f"{task}/entropy" in metrics
                else seen
                for task, seen in algo["rewards"].items()
            }
        return moved

    def label_pictures(
        self, asked: PromptBatch, rollout: Rollout, scores: Rewards
    ) -> tuple[np.ndarray, list[str]]:
        """The first prompts' pictures of this step with prompt and reward."""
        shown, pixels = 4 * self.settings.group, rollout.pixels
        pictures = np.asarray(pixels).reshape(-1, *pixels.shape[2:])[:shown]
        prompts = [record.prompt for record in asked.records for _ in range(pixels.shape[1])][
            :shown
        ]
        return pictures, [f"{p}\n{r:.2f}" for p, r in zip(prompts, scores.total, strict=False)]

    def hooks(self, settings: HookSettings) -> list[Hook]:
        """A sheet of the newest pictures with prompts and rewards, and probes of held-out prompts."""

        def report(done: int, state: TrainState) -> Report:
            if self.sheet is None:
                return Report()
            pictures, labels = self.sheet
            return Report(
                {}, {"rollout": image_grid(pictures, labels, self.settings.group, scale=2)}
            )

        def probe(done: int, state: TrainState) -> Report:
            return Report(self.probe(self.parts.for_rollout(state.params)))

        return [
            Every(settings.sample_every, report),
            Every(settings.probe_every, probe, at_end=False),
        ]
