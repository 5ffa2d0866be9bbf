"""Reinforcement learning of text-to-image and image-to-text from the same updates (GRPO).

One step, in ``RlStage.batches``:

1. Prompts. Records become a ``PromptBatch`` per task (``tasks.joint.JointPrompts``, ahead of time,
   in the data iterator).
2. Rollouts. ``rollouts.RolloutSampler`` samples ``group_size`` completions per prompt: a
   ``RolloutBatch``.
3. Rewards. ``reward_step.RewardScorer`` computes them on the host: ``ScoredRollouts``.
4. Advantages. ``objectives.advantages`` compares each reward with its group: arrays ``[B, G]``.
5. Update. A ``PolicyBatch`` per part goes to ``engine.update``, whose loss is ``loss.policy_loss``.

The stage serves unified runs (both tasks), refinements (one task, by 0 prompts of the other) and
training in turns (``config.rl.rollout.alternate_every``), where a step trains one task alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.numerics import Metrics
from corl_jax.core.rng import stream
from corl_jax.core.trees import partition
from corl_jax.core.types import Params, PolicyBatch, Rewards, Rollout
from corl_jax.data.mixing.history import HistoryIterator
from corl_jax.data.pipeline import PairWithNext, ids_of_rows
from corl_jax.data.records import TASK_FIELDS, TASK_FIELDS_IN_WORDS
from corl_jax.data.sources.base import RecordSource, SelectedRecords
from corl_jax.data.text_tokenizer import truncated_rows
from corl_jax.data.unusable_records import Check
from corl_jax.engine.hooks import Hook, PeriodicHook, Report
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.reference_policy import ReferencePolicy
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state, merge
from corl_jax.objectives import kl
from corl_jax.objectives.entropy_target import initial_entropy_state
from corl_jax.objectives.running_moments import empty_moments
from corl_jax.rewards.record_checks import record_checks
from corl_jax.stages.config import EvalsConfig, HooksConfig, has_evaluation, read_block
from corl_jax.stages.rl.advantage_step import compute_advantages
from corl_jax.stages.rl.completion_log import CompletionLog
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.curriculum import solved_shares, success_shares, weigh_by_difficulty
from corl_jax.stages.rl.evaluation import HeldOutEvaluation
from corl_jax.stages.rl.grad_interference import GradInterference
from corl_jax.stages.rl.held_out import HeldOutRecords, check_enough
from corl_jax.stages.rl.kl_penalty import subtract_kl_penalties
from corl_jax.stages.rl.loss import next_entropy_states, policy_loss, summed_reward_moments
from corl_jax.stages.rl.minibatches import Minibatches
from corl_jax.stages.rl.parts import parts_of
from corl_jax.stages.rl.policy_batches import PolicyBatches
from corl_jax.stages.rl.probe import HeldOutProbe
from corl_jax.stages.rl.read_config import read_rl_config
from corl_jax.stages.rl.resample import DynamicSampling
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.rl.rollouts import RolloutSampler, check_external_image
from corl_jax.stages.rl.sample_sheet import SampleSheet
from corl_jax.stages.rl.step_tasks import StepTasks
from corl_jax.stages.setup import Setup, open_records
from corl_jax.stages.train_records import TrainRecords
from corl_jax.tasks.joint import JointPrompts


class RlStage:
    """GRPO over one or both tasks; the head of this file describes a step.

    Attributes:
      setup: mesh, model, tokenizer, initial parameters.
      cfg: the blocks ``rl``, ``rewards`` and ``kl`` of the config.
      sample_sheet: images of the newest step, for people to look at.
      fixed_reference: parameters of a reference policy that does not follow; {} where the KL
        coefficients are 0 or the reference is in the train state.
    """

    name = "rl"

    def __init__(self, config: Mapping[str, Any], setup: Setup, optimizer: Optimizer):
        self.setup, self.optimizer, self.seed = setup, optimizer, config["seed"]
        self.trainable = setup.trainable_patterns(config["trainable"])
        setup.check_sources(trainable=self.trainable)

        # Schedules count updates, of which a step may have several.
        self.updates_per_step = config["updates_per_step"]
        self.total_updates = config["steps"] * self.updates_per_step
        self.cfg: RlConfig = read_rl_config(config, self.updates_per_step)
        self.loss = functools.partial(policy_loss, setup.trained_policy, self.cfg)
        self._open_records = functools.partial(open_records, config)
        self.records_order = TrainRecords(
            config,
            self.cfg.rollout.prompts,
            is_paired=self.cfg.advantage.pairing != "separate",
        )
        self._history: HistoryIterator | None = None

        # The collaborators of a step.
        tasks = StepTasks.of(setup, self.cfg)
        self.visual_qa = tasks.visual_qa
        self.rollout_sampler = RolloutSampler(
            setup,
            self.cfg,
            self.seed,
            config["steps"],
            # Of the whole rollout: those of each of its mini-batches.
            config["microbatches"] * self.cfg.rollout.minibatches,
        )
        self.minibatches = Minibatches(self.rollout_sampler)
        self.joint_prompts = JointPrompts(
            tasks.text_to_image,
            tasks.visual_qa,
            self.cfg.rollout.image_prompts,
            self.cfg.rollout.text_prompts,
            local_row_ids=self.rollout_sampler.local_prompt_ids,
            alternate_every=self.cfg.rollout.alternate_every,
            text_offset=self.records_order.text_offset,
            planning=tasks.planning,
            self_check=tasks.self_check,
            local_question_ids=setup.sharder.local_row_ids,
            checked_samples=self.cfg.rollout.group_size,
            checked_prompts=self.cfg.check.prompts,
        )
        self.reward_scorer = RewardScorer(setup, self.cfg, tasks.by_part)
        self.policy_batches = PolicyBatches(self.rollout_sampler, self.updates_per_step)
        self.dynamic_sampling = DynamicSampling(
            self.joint_prompts,
            self.rollout_sampler,
            self.reward_scorer,
            self.refill_records,
        )

        self._build_observers(config)
        self.fixed_reference: Params = {}

    def _build_observers(self, config: Mapping[str, Any]) -> None:
        """What looks at steps from outside, and what is measured on held-out records."""
        hooks = config["hooks"]
        self.probe_every, self.interference_every = (
            hooks["probe_every"],
            hooks["interference_every"],
        )
        self.held_out = HeldOutRecords(
            lambda checks: self._open_records("test", checks),
            self.record_checks,
            self.cfg.rewards,
            TASK_FIELDS if self.cfg.rollout.question_pictures else TASK_FIELDS_IN_WORDS,
        )
        self.probe = HeldOutProbe(
            self.setup, self.cfg, self.reward_scorer, self.held_out, self.seed
        )
        self.evaluation: HeldOutEvaluation | None = None
        if has_evaluation(config):
            evals = read_block(EvalsConfig, config["evals"], "evals")
            self.evaluation = HeldOutEvaluation(
                self.setup, self.cfg, evals, self.reward_scorer, self.held_out
            )
        self.grad_interference = GradInterference(
            self.loss_value, self.rollout_sampler.microbatches
        )
        self.sample_sheet = SampleSheet(self.cfg.rollout.group_size)
        self.completion_log = CompletionLog(
            read_block(HooksConfig, hooks, "hooks"),
            config["steps"],
            self.reward_scorer.tasks,
            self.rollout_sampler,
        )

    @property
    def label(self) -> str:
        """Of the progress bar: what is trained."""
        return " + ".join(self.cfg.tasks)

    @functools.cached_property
    def train_records(self) -> RecordSource:
        """The training records, built or opened and checked on first use."""
        return self.records_order.open(self.train_checks)

    def text_checks(self) -> list[Check]:
        """What the tasks and their rewards need of the texts of a record."""
        return [check for checks in self.train_checks.values() for check in checks]

    @property
    def train_checks(self) -> dict[str, list[Check]]:
        """Task to what it, its rewards and its external samples need of a training record."""
        checks = self.record_checks(self.trained_rewards)
        if self.cfg.has_external("image"):
            checks["image"].append(check_external_image)
        return checks

    @property
    def trained_rewards(self) -> dict[str, Iterable[str]]:
        """Task to the names of its rewards, for the trained tasks."""
        return {task: self.cfg.rewards[task] for task in self.cfg.tasks}

    def record_checks(self, rewards: Mapping[str, Iterable[str]]) -> dict[str, list[Check]]:
        """Task to what it and the rewards named for it need of the texts of a record."""
        parts = self.reward_scorer.tasks
        # Rewards that ask the policy always ask about a picture.
        about_picture = dataclasses.replace(self.visual_qa, with_pictures=True)
        options, check_question = self.cfg.reward_options, about_picture.prompt_ids
        return {
            task: [
                *(parts[part].check_record for part in parts_of(task, parts)),
                *record_checks(sorted(names), options, check_question),
            ]
            for task, names in rewards.items()
        }

    @property
    def rows_per_step(self) -> dict[str, int]:
        """Config key to the records of a step that it asks for."""
        rollout = self.cfg.rollout
        return {
            "config.rl.rollout.image_prompts": rollout.image_prompts,
            "config.rl.rollout.text_prompts": rollout.text_prompts,
        }

    def input_checks(self) -> Iterator[Callable[[], object]]:
        """Reads all inputs before anything is written, each by a call of its own.

        A call raises UserError: widths that the policy has no positions for, records that cannot be
        used, held-out records that are missing, a reward model that cannot be read.
        """
        for part in self.cfg.parts:
            yield functools.partial(self.rollout_sampler.check_length, part)
        yield self.reward_scorer.check_length
        yield lambda: len(self.train_records)
        if self.probe_every:
            yield self.probe.open_inputs
        if self.evaluation is not None:
            yield from self.evaluation.input_checks()

        # Last, since they may take long to read.
        tasks = {*self.cfg.tasks}
        if self.probe_every:
            tasks |= {*self.probe.tasks}
        if self.evaluation is not None:
            tasks |= {*self.evaluation.tasks}
        for name in self.reward_scorer.required_models(sorted(tasks)):
            yield functools.partial(self.reward_scorer.load_reward_model, name)

    def held_out_problems(self, records: RecordSource) -> Iterator[Callable[[], object]]:
        """Where the held-out records cannot be opened: whether records like ``records`` would do.

        They are some of those that could be held out.
        """
        counts = [max(self.probe.counts.values())] if self.probe_every else []
        if self.evaluation is not None:
            counts.append(self.evaluation.num_records)
            yield functools.partial(self.evaluation.check_scoring, records)
        yield functools.partial(check_enough, len(records), counts)

    def init_state(self) -> TrainState:
        """The initial policy, with a copy of its trainable part as reference where one is needed.

        A reference that follows the policy is part of the train state; a fixed one is not.
        """
        trainable, frozen = partition(self.setup.load_params(), self.trainable)

        # Updates donate the trainable parameters, so the reference needs a copy. Below adapters the
        # base model itself is the reference, unless the reference follows.
        follows = self.cfg.reference.update_every > 0
        needs_copy = self.cfg.needs_reference and (follows or not self.setup.lora.rank)
        copy = jax.tree.map(jnp.copy, trainable) if needs_copy else {}
        reference = self.following_reference(copy)
        self.fixed_reference = merge(copy, frozen) if copy and reference is None else {}
        return create_state(
            trainable,
            frozen,
            self.optimizer,
            self.init_algo_state(),
            keep_previous=self.cfg.rollout.one_step_off_policy,
            reference=reference,
        )

    def following_reference(self, params: Params) -> ReferencePolicy | None:
        """A reference policy of ``params`` that follows the policy, or None where it is fixed."""
        every = self.cfg.reference.update_every * self.updates_per_step
        return ReferencePolicy(params, every, self.cfg.reference.mix) if every else None

    def init_algo_state(self) -> dict[str, Any]:
        """Task to the state of its KL coefficient.

        ``rewards`` holds running moments, and ``entropy`` the coefficients of the entropy by task,
        where they are asked for.
        """
        algo: dict[str, Any] = {
            task: kl.initial_kl_state(self.cfg.kl[task], self.total_updates)
            for task in self.cfg.tasks
        }
        if self.cfg.reward_options.normalization == "running":
            algo["rewards"] = {
                task: empty_moments(len(self.cfg.rewards[task])) for task in self.cfg.tasks
            }
        if targets := self.cfg.entropy_targets:
            algo["entropy"] = {task: initial_entropy_state() for task in targets}
        return algo

    def reference_params(self, state: TrainState) -> Params:
        """Parameters of the reference policy; {} where no task has a KL term."""
        if state.reference is not None:
            return merge(state.reference.params, state.frozen)
        if self.cfg.needs_reference and self.setup.lora.rank:
            return state.frozen
        return self.fixed_reference

    def data_iterator(self) -> grain.DatasetIterator:
        """Prompts of both tasks; one step off policy, those of two steps at a time."""
        # Prompts are made ahead of time in threads; only this process's rows are read.
        if self.cfg.curriculum.history != "none":
            self._history = self.records_order.unsolved_batches(
                self.train_records, self.joint_prompts
            )
            return self._history
        iterator = self.records_order.batches(self.train_records, self.joint_prompts)
        return PairWithNext(iterator) if self.cfg.rollout.one_step_off_policy else iterator

    def record_ids(self, step: int) -> tuple[str, ...]:
        """Ids of the records of a step, before dynamic sampling replaces any."""
        if self._history is not None:
            return ids_of_rows(self.train_records, self._history.rows(step))
        return self.records_order.record_ids(self.train_records, step)

    def refill_records(self, step: int, round_number: int) -> SelectedRecords:
        """The records of a round of dynamic sampling: as many as a step has, of the whole set."""
        records, name = self.train_records, f"refill {round_number}"
        order = self.records_order.order(records)
        if order is not None:
            rows = order.with_seed_of(name)(step)
        else:
            # None of them twice.
            key = stream(self.seed, name, step)
            rows = np.asarray(jax.random.permutation(key, len(records)))
        return SelectedRecords(records, tuple(map(int, rows[: self.joint_prompts.batch_size])))

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """One training step up to the update.

        Work for the device is dispatched first; the host computes rewards meanwhile, task by task as
        the rollouts arrive.
        """
        params = self.setup.rollout_params(state.params)

        # Rollouts. With dynamic sampling the rewards decide which of them are kept.
        rollout_batch = self.rollout_sampler.step_rollouts(state, params, raw, step)
        scored, history_metrics = None, {}
        if self.cfg.advantage.resample_rounds:
            scored = self.reward_scorer.score_rollouts(params, rollout_batch)
            history_metrics = self.note_outcomes(scored.rewards, step)
            scored = self.dynamic_sampling(params, scored)
            rollout_batch = scored.batch

        # Log-probs, of the policy that samples and of the reference, where the loss needs them. With
        # adapters the policy is scored with them, not from the merged copy that samples.
        scored_params = state.params if self.setup.lora.rank else params
        policy_batch = self.policy_batches.scored(
            scored_params, self.reference_params(state), rollout_batch
        )

        # Rewards and advantages.
        if scored is None:
            scored = self.reward_scorer.score_rollouts(params, rollout_batch)
            history_metrics = self.note_outcomes(scored.rewards, step)
        rewards = {
            task: self.reward_scorer.normalize(task, task_rewards, state.algo)
            for task, task_rewards in scored.rewards.items()
        }
        penalized, penalty_metrics = subtract_kl_penalties(
            self.cfg, rewards, policy_batch, state.algo
        )
        advantages, difficulty_metrics = weigh_by_difficulty(
            self.cfg, compute_advantages(self.cfg, penalized), rewards, step
        )
        policy_batch, credit_metrics = self.policy_batches.with_advantages(
            policy_batch, scored_params, rollout_batch, advantages, rewards
        )
        local_rollouts, prompts = scored.local_rollouts, rollout_batch.prompts
        metrics = self.reward_scorer.metrics(rewards) | scored.metrics | penalty_metrics
        metrics |= self.completion_lengths(local_rollouts) | difficulty_metrics | history_metrics
        metrics |= credit_metrics
        metrics |= rollout_batch.seconds() | {"time/rewards": scored.seconds}
        del params, scored_params, rollout_batch, scored  # the update needs their memory

        # The update, once or several times on the same rollouts or on parts of them.
        policy_batch = self.setup.sharder.put_batch(policy_batch)
        if self.interference_every and (step + 1) % self.interference_every == 0:
            metrics |= self.grad_interference(state, policy_batch)
        if "image" in local_rollouts:
            self.sample_sheet.remember(prompts["image"], local_rollouts["image"], rewards["image"])
        self.completion_log.remember(step + 1, prompts, local_rollouts, rewards, advantages)
        for update in range(self.updates_per_step):
            yield self.minibatches(policy_batch, step, update), metrics

    def note_outcomes(self, rewards: Mapping[str, Rewards], step: int) -> HostMetrics:
        """Adds what came of the step's own records to their history, and describes it."""
        history = self._history
        if history is None:
            return {}
        rows = history.rows(step)
        measured, shares = solved_shares(success_shares(self.cfg, rewards), len(rows))
        history.outcomes.add(rows[measured], shares)
        return {
            "curriculum/epoch": float(history.epoch),
            "curriculum/in_epoch": history.share_in_epoch,
            "curriculum/unsolved": float(history.outcomes.unsolved.mean()),
        }

    def completion_lengths(self, local_rollouts: Mapping[str, Rollout]) -> HostMetrics:
        """Mean length of answers and plans in tokens, and the share that was cut at the limit."""
        metrics = {}
        for part, rollout in local_rollouts.items():
            if rollout.modality == "image":
                continue
            truncated = truncated_rows(rollout.tokens, self.setup.tokenizer.eos_id)
            lengths, truncated = self.setup.sharder.all_gather_rows(
                (rollout.mask.sum((-2, -1)), truncated.sum(-1))
            )
            samples = self.rollout_sampler.samples(part)
            metrics[f"{part}/completion_length"] = float(lengths.sum() / samples)
            metrics[f"{part}/truncated"] = float(truncated.sum() / samples)
        return metrics

    def loss_value(self, params: Params, parts: Mapping[str, PolicyBatch], algo: Any) -> jax.Array:
        """The loss of some parts, without metrics."""
        return self.loss(params, parts, algo)[0]

    def update_algo_state(self, algo: Any, metrics: Metrics) -> Any:
        """Moves the coefficients of KL and entropy, and adds the step's rewards to their moments.

        Coefficients of a task that did not train in this step move as if its KL were on target.
        """
        next_algo = dict(algo)

        # KL coefficients follow their schedules, or steer towards a target.
        if self.cfg.needs_reference:
            for task in self.cfg.tasks:
                kl_cfg, name = self.cfg.kl[task], f"{task}/kl"
                divergence: Any = metrics[name].value if name in metrics else kl_cfg.target_kl
                next_algo[task] = kl.next_kl_state(
                    kl_cfg, algo[task], divergence, self.total_updates
                )

        # Only a task that trained in this step has an entropy, and rewards to add.
        if "entropy" in algo:
            next_algo["entropy"] = next_entropy_states(self.cfg, algo["entropy"], metrics)
        if "rewards" in algo:
            next_algo["rewards"] = {
                task: moments.with_sums(
                    *summed_reward_moments(metrics, task, tuple(self.cfg.rewards[task]))
                )
                if f"{task}/entropy" in metrics
                else moments
                for task, moments in algo["rewards"].items()
            }
        return next_algo

    def hooks(self, hooks: HooksConfig) -> list[Hook]:
        """A sheet of the newest images, samples of both tasks, and rewards of held-out prompts."""

        def probe(done: int, state: TrainState) -> Report:
            return Report(self.probe(self.setup.rollout_params(state.params)))

        return [
            PeriodicHook(hooks.sample_every, self.sample_sheet.report),
            self.completion_log,
            PeriodicHook(hooks.probe_every, probe, at_end=False),
        ]
