"""Reinforcement learning of both tasks: ask, sample, score, compare within the group, update.

    records -> prompts -> rollouts -> rewards -> advantages -> weighted surrogate + KL -> update

Serves the unified stage (both tasks) and refinements (one task, by asking 0 of the other).
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
from corl_jax.core.types import Asked, Params, PolicyBatch, Record, Rollout, Scores
from corl_jax.data.pipeline import Ahead, batches, fixed
from corl_jax.data.sources import RecordSource
from corl_jax.engine.alarm import HELD_OUT
from corl_jax.engine.hooks import Every, Hook, Report
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.pictures import image_grid
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state, merge
from corl_jax.objectives import advantages, kl
from corl_jax.objectives.running import nothing_seen
from corl_jax.objectives.weighting import token_weights
from corl_jax.stages.assembly import Parts, records
from corl_jax.stages.rl_loss import policy_loss, reward_sums
from corl_jax.stages.rl_rewards import Judge
from corl_jax.stages.rl_rollouts import Rollouts
from corl_jax.stages.rl_settings import RlSettings, read_settings
from corl_jax.stages.settings import HookSettings
from corl_jax.tasks.base import Task
from corl_jax.tasks.joint import Joint
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


class RlStage:
    """GRPO over one or both tasks; see the head of this file."""

    name = "rl"

    def __init__(self, config: Mapping[str, Any], parts: Parts, optimizer: Optimizer):
        self.parts, self.optimizer, self.seed = parts, optimizer, config["seed"]
        self.trainable, self.updates = parts.trainable(config["trainable"]), config["updates_per_step"]
        parts.check(trainable=self.trainable)
        self.steps, self.total = config["steps"], config["steps"] * self.updates
        self.settings: RlSettings = read_settings(config, self.updates)
        self.rollouts = Rollouts(parts, self.settings, self.seed, self.steps)
        self._records = functools.partial(records, config)
        s, cfg = self.settings, parts.cfg
        self.joint = Joint(
            TextToImage(parts.tokenizer, s.image_prompt_length),
            VisualQA(parts.tokenizer, cfg.image_tokens, cfg.vision.image_size, s.text_prompt_length),
            s.pictures,
            s.questions,
            self.rollouts.share,
        )
        tasks: dict[str, Task] = {"image": self.joint.drawing, "text": self.joint.asking}
        self.judge = Judge(parts, s, tasks)
        self.rows = {"pictures": s.pictures, "questions": s.questions}
        self.sheet: tuple[np.ndarray, list[str]] | None = None
        self.reference: Params = {}

    @functools.cached_property
    def train(self) -> RecordSource:
        """What is asked, built or opened when first looked at."""
        return self._records("train")

    @functools.cached_property
    def held_out(self) -> tuple[Record, ...]:
        """What probes ask."""
        return fixed(self._records("test"), self.joint.batch_size, self.seed)

    def init(self) -> TrainState:
        """The handed-off policy; a frozen copy of its trainable part stays aside as the reference, see ``anchor``."""
        trainable, frozen = partition(self.parts.params(), self.trainable)
        if self.settings.needs_reference and not self.parts.lora.rank:  # a copy, since updates donate what they move
            self.reference = merge(jax.tree.map(jnp.copy, trainable), frozen)
        behind = self.settings.stale_rollouts
        return create_state(trainable, frozen, self.optimizer, self.algo(), keep_previous=behind)

    def anchor(self, state: TrainState) -> Params:
        """The reference's parameters, none where no KL is taken; under adapters it is the base, which never moves."""
        return state.frozen if self.settings.needs_reference and self.parts.lora.rank else self.reference

    def algo(self) -> dict[str, Any]:
        """By task the state of its KL coefficient; under ``rewards``, where they are standardised, their moments."""
        s = self.settings
        algo: dict[str, Any] = {task: kl.initial(s.kl[task], self.total) for task in s.asked}
        if s.reward.normalise == "running":
            algo["rewards"] = {task: nothing_seen(len(s.rewards[task])) for task in s.asked}
        return algo

    def open(self) -> None:
        """Reads reward models and records, before anything is written."""
        self.judge.open()
        len(self.train)

    def data(self) -> grain.DatasetIterator:
        """Records asked both ways; with stale rollouts each batch beside the next."""
        found = batches(self.train, seed=self.seed, batch_size=self.joint.batch_size, transform=self.joint)
        return Ahead(found) if self.settings.stale_rollouts else found

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """One training step up to the update: this is the screen to read.

        What the device is to do is handed to it first; rewards are computed meanwhile, task by task as they come.
        """
        params, sharder = self.parts.for_rollout(state.params), self.parts.sharder
        drawn = self.rollouts.drawn(state, params, raw, step)
        asked, anchor, trained = drawn.asked, self.anchor(state), state.params if self.parts.lora.rank else params
        batch = {
            task: PolicyBatch(
                prompts=asked[task].prompts,
                tokens=rollout.tokens,
                mask=rollout.mask,
                sampler_log_probs=rollout.log_probs,
                old_log_probs=self.rollouts.log_probs(trained, task, asked[task], rollout)
                if self.updates > 1
                else None,
                ref_log_probs=self.rollouts.log_probs(anchor, task, asked[task], rollout) if anchor else None,
                advantages=None,
                weights=token_weights(rollout.mask, aggregation=self.settings.aggregation),
            )
            for task, rollout in drawn.rollouts.items()
        }
        own, scores = {}, {}
        for task, rollout in drawn.rollouts.items():
            own[task] = sharder.own(rollout)
            found = self.judge.score(params, task, asked[task], own[task])
            scores[task] = self.judge.standardised(task, found, state.algo)
            if self.settings.reward.normalise == "running":
                values = self.rollouts.rows_of(task, found.matrix)
                batch[task] = dataclasses.replace(batch[task], rewards=values)
        del params, trained, drawn, rollout  # the update needs their room
        for task, advantage in self.advantages(scores).items():
            batch[task] = dataclasses.replace(batch[task], advantages=self.rollouts.rows_of(task, np.ravel(advantage)))
        batch, metrics = sharder.put_batch(batch), self.judge.metrics(scores) | self.lengths(own)
        if "image" in own:
            self.sheet = self.label_pictures(asked["image"], own["image"], scores["image"])
        for _ in range(self.updates):
            yield batch, metrics

    def advantages(self, scores: Mapping[str, Scores]) -> dict[str, jax.Array]:
        """``[B, G]`` per task, paired as the settings say; the same on every process."""
        s = self.settings
        totals = {task: jnp.asarray(one.total).reshape(-1, s.group) for task, one in scores.items()}
        if len(totals) == 1:
            return {task: advantages.scales[s.scale](total) for task, total in totals.items()}
        image, text = advantages.paired(
            totals["image"], totals["text"], pairing=s.pairing, scale=s.scale, text_weight=s.text_weight
        )
        return {"image": image, "text": text}

    def lengths(self, rollouts: Mapping[str, Rollout]) -> HostMetrics:
        """Mean length of answers in tokens."""
        if "text" not in rollouts:
            return {}
        lengths = self.parts.sharder.gather(rollouts["text"].mask.sum((-2, -1)))
        return {"text/length": float(lengths.sum() / (self.settings.questions * self.settings.group))}

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Sum of the tasks' weighted losses."""
        return policy_loss(self.parts.learner, self.settings, params, batch, algo)

    def after(self, algo: Any, metrics: Metrics) -> Any:
        """Moves the KL coefficients, and adds the step's rewards to their moments."""
        s, moved = self.settings, dict(algo)
        if s.needs_reference:
            for task in s.asked:
                moved[task] = kl.advance(s.kl[task], algo[task], metrics[f"{task}/kl"].value, self.total)
        if "rewards" in algo:
            moved["rewards"] = {
                task: seen.with_sums(*reward_sums(metrics, task, tuple(s.rewards[task])))
                for task, seen in algo["rewards"].items()
            }
        return moved

    def label_pictures(self, asked: Asked, rollout: Rollout, scores: Scores) -> tuple[np.ndarray, list[str]]:
        """The first prompts' pictures of this step with prompt and reward."""
        shown, pixels = 4 * self.settings.group, rollout.pixels
        pictures = np.asarray(pixels).reshape(-1, *pixels.shape[2:])[:shown]
        prompts = [record.prompt for record in asked.records for _ in range(pixels.shape[1])][:shown]
        return pictures, [f"{p}\n{r:.2f}" for p, r in zip(prompts, scores.total, strict=False)]

    def probe(self, params: Params) -> dict[str, float]:
        """Rewards on held-out prompts, always the same ones and with the same keys, as many as a step has."""
        drawn = self.rollouts.draw(params, self.joint(self.held_out, 0), 0, "probe/")
        rewards = {}
        for task, rollout in drawn.rollouts.items():
            found = self.judge.score(params, task, drawn.asked[task], self.parts.sharder.own(rollout))
            rewards[task + HELD_OUT] = float(found.total.mean())
        return rewards

    def hooks(self, settings: HookSettings) -> list[Hook]:
        """A sheet of the newest pictures with prompts and rewards, and probes of held-out prompts."""

        def report(done: int, state: TrainState) -> Report:
            if self.sheet is None:
                return Report()
            pictures, labels = self.sheet
            return Report({}, {"rollout": image_grid(pictures, labels, self.settings.group, scale=2)})

        def probe(done: int, state: TrainState) -> Report:
            return Report(self.probe(self.parts.for_rollout(state.params)))

        return [Every(settings.sample_every, report), Every(settings.probe_every, probe, at_end=False)]
