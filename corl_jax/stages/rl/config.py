"""All that the reinforcement learning stage reads from a config, checked once.

``config_blocks.py`` checks each block by itself; here are the rules between blocks.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from corl_jax.core.checks.config_block import check_value, config_block, field_annotations
from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems
from corl_jax.data.plans import Plans
from corl_jax.objectives.kl import KlConfig
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.rewards.base import rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.custom import register_custom
from corl_jax.rewards.cycle import check_reward_options
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.stages.config import check_keys, read_block, within
from corl_jax.stages.rl.config_blocks import (
    TASKS,
    AdvantageConfig,
    CheckConfig,
    CurriculumConfig,
    ExternalConfig,
    LogProbsConfig,
    LossConfig,
    PlanConfig,
    ReferenceConfig,
    RolloutConfig,
)
from corl_jax.stages.rl.parts import PARTS

BLOCKS = {
    "rollout": RolloutConfig,
    "advantage": AdvantageConfig,
    "loss": LossConfig,
    "curriculum": CurriculumConfig,
    "external": ExternalConfig,
    "log_probs": LogProbsConfig,
    "reference": ReferenceConfig,
    "plan": PlanConfig,
    "check": CheckConfig,
}
"""Sub-blocks of ``config.rl``."""


RewardWeights = Mapping[str, float]
"""Reward name to weight, which may be negative."""


@config_block
class RewardTables:
    """The tables of ``config.rewards``; ``options`` stands beside them.

    Attributes:
      image: reward name to its weight in the reward of a drawn image.
      text: reward name to its weight in the reward of an answer.
    """

    image: RewardWeights
    text: RewardWeights


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """All that the reinforcement learning stage reads from a config.

    Attributes:
      rollout, advantage, loss, curriculum, external, log_probs, reference, plan, check: the
        sub-blocks of ``config.rl``.
      stage_starts: first steps of the stages of a curriculum, from 0, ``config.data.stages``.
      kl: task to the schedule of its KL coefficient, ``config.kl``.
      rewards: task to (reward name to weight), ``config.rewards.image`` and ``.text``.
      reward_options: choices that several rewards share, ``config.rewards.options``.
    """

    rollout: RolloutConfig
    advantage: AdvantageConfig
    loss: LossConfig
    curriculum: CurriculumConfig
    external: ExternalConfig
    log_probs: LogProbsConfig
    reference: ReferenceConfig
    plan: PlanConfig
    check: CheckConfig
    stage_starts: tuple[int, ...]
    kl: Mapping[str, KlConfig]
    rewards: Mapping[str, Mapping[str, float]]
    reward_options: RewardOptions

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return tuple(self.rollout.prompts)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the tasks that are trained, in the order in which they are sampled."""
        is_left_out = {"plan": not self.plan.length, "check": not self.check.prompts}
        return tuple(
            name
            for name, part in PARTS.items()
            if part.task in self.tasks and not is_left_out.get(name)
        )

    @property
    def plans(self) -> Plans | None:
        """How images are planned; None where they are not."""
        return Plans(self.plan.length, self.plan.template) if self.plan.length else None

    def prompt_length(self, part: str) -> int:
        """Width of the prompts of ``part``, in tokens."""
        c = self.rollout
        # An image is drawn behind its plan.
        lengths = {
            "image": c.image_prompt_length + self.plan.length,
            "text": c.text_prompt_length,
            "plan": self.plan.prompt_length,
            "check": self.check.prompt_length,
        }
        return lengths[part]

    def text_length(self, part: str) -> int:
        """Most tokens of a completion of a part that is text."""
        return self.plan.length if part == "plan" else self.rollout.completion_length

    @property
    def needs_reference(self) -> bool:
        """Whether any task has a KL term."""
        return any(self.kl[task].needs_reference for task in self.tasks)

    @property
    def success_rewards(self) -> dict[str, str]:
        """Task to the reward that says whether a sample succeeded, for the trained tasks."""
        names = self.curriculum.success
        return {task: names[task] for task in self.tasks if names[task]}

    @property
    def entropy_targets(self) -> dict[str, float]:
        """Task to the entropy it is steered to, for the trained tasks that have a target."""
        targets = self.loss.entropy_target
        return {task: targets[task] for task in self.tasks if targets[task]}

    def has_external(self, task: str) -> bool:
        """Whether the policy did not draw the last sample of each group of ``task``."""
        return task == "image" and self.external.image != "none"

    def own_samples(self, task: str, samples: int) -> Bool[np.ndarray, " N"]:
        """Which of a step's ``samples``, group after group, the policy drew itself."""
        number = np.arange(samples) % self.rollout.group_size
        return number < self.rollout.group_size - self.has_external(task)

    def reward_weights(self, part: str) -> np.ndarray:
        """Weights of the rewards of a part, ``[R]``. Verdicts have one reward."""
        weights = self.rewards[part].values() if part in self.rewards else (1.0,)
        return np.array(list(weights))

    def difficulty(self, step: int) -> str:
        """How success weighs advantages in a step."""
        names = self.curriculum.difficulty
        stage = bisect.bisect_right(self.stage_starts, step) - 1
        return names[stage] if len(names) > 1 else names[0]

    def sampling_params(self, policy: PolicyFns, part: str) -> SamplingParams:
        """The distribution that samples and log-probs of ``part`` are of."""
        modality = PARTS[part].modality
        guidance = self.rollout.guidance_scale if modality == "image" else 1.0
        return policy.sampling_params(
            modality, guidance=guidance, temperature=self.rollout.temperature
        )

    def log_prob_options(self, part: str) -> LogProbOptions:
        """How log-probs of ``part`` are computed."""
        c, modality = self.log_probs, PARTS[part].modality
        return LogProbOptions(
            guided=modality == "image" and self.rollout.uses_guidance and c.guidance == "matched",
            aligned=modality == "text" or c.image_alignment == "aligned",
            shared_prefix=modality in c.shared_prefix,
            chunk_length=c.chunk_length,
        )


def read_rl_config(config: Mapping[str, Any], updates_per_step: int) -> RlConfig:
    """The blocks ``rl``, ``rewards`` and ``kl`` of a config.

    Raises:
      UserError: a value or a combination of values that cannot be trained with.
    """
    check_keys(config["rl"], set(BLOCKS), "rl")
    check_keys(config["kl"], set(TASKS), "kl")
    check_keys(config["rewards"], {*TASKS, "options"}, "rewards")

    # Each block by itself, so that all problems are found.
    problems = Problems()
    blocks: dict[str, Any] = {}
    kl: dict[str, KlConfig] = {}
    for name, cls in BLOCKS.items():
        with problems.collect():
            blocks[name] = read_block(cls, config["rl"][name], f"rl.{name}")
    for task in TASKS:
        with problems.collect():
            kl[task] = read_block(KlConfig, config["kl"][task], f"kl.{task}")
    with problems.collect():
        options = _read_reward_options(config["rewards"]["options"])
    for task in TASKS:
        with problems.collect():
            _check_reward_weights(task, config["rewards"][task], config["rewards"]["options"])
    problems.raise_if_any()

    weights = {task: dict(config["rewards"][task]) for task in TASKS}
    starts = (0, *config["data"]["stages"])
    c = RlConfig(
        **blocks,
        stage_starts=starts,
        kl=kl,
        rewards=weights,
        reward_options=options,
    )
    # The rules between blocks.
    for check in (
        _check_tasks,
        _check_advantages,
        _check_lengths,
        functools.partial(_check_off_policy, updates_per_step=updates_per_step),
        functools.partial(
            _check_minibatches,
            updates_per_step=updates_per_step,
            microbatches=config["microbatches"],
        ),
        _check_curriculum,
        _check_verdicts,
        _check_image_credit,
        _check_external,
    ):
        with problems.collect():
            check(c)
    problems.raise_if_any()
    return c


def _read_reward_options(block: Mapping[str, Any]) -> RewardOptions:
    """``config.rewards.options``. The user's rewards are registered, so that they have names."""
    options = read_block(RewardOptions, block, "rewards.options")
    problems = Problems()
    with problems.collect():
        register_custom(options.custom)
    with problems.collect(), within("rewards.options"):
        check_reward_options(options)
    problems.raise_if_any()
    return options


def _check_reward_weights(task: str, weights: Any, options: Mapping[str, Any]) -> None:
    """Checks ``config.rewards.image`` or ``.text``; the user's rewards must be registered."""
    with within("rewards"):
        check_value(task, weights, field_annotations(RewardTables)[task])
    # One of the user that could not be registered is an error of its own.
    own = {str(entry).rpartition(":")[2] for entry in options.get("custom", ())}
    problems = Problems()
    for name in weights.keys() - own:
        with problems.collect():
            rewards.require(name)
    problems.raise_if_any()


def _check_tasks(c: RlConfig) -> None:
    """Raises UserError where the tasks' prompts, rewards and advantages do not fit together."""
    image_prompts, text_prompts = c.rollout.image_prompts, c.rollout.text_prompts
    for task in c.tasks:
        if not c.rewards[task]:
            raise UserError(
                f"config.rewards.{task} must name at least one reward; got none. Add one, or set "
                f"config.rl.rollout.{task}_prompts=0"
            )

    is_paired = c.advantage.pairing != "separate"
    if is_paired and len(c.tasks) == 2 and image_prompts != text_prompts:
        raise UserError(
            f"config.rl.advantage.pairing={c.advantage.pairing!r} pairs every image with an answer, "
            f"so image_prompts and text_prompts must be equal; got {image_prompts} and "
            f"{text_prompts}. Make them equal, or choose pairing='separate'"
        )
    if c.rollout.alternate_every and (len(c.tasks) < 2 or is_paired):
        raise UserError(
            f"config.rl.rollout.alternate_every={c.rollout.alternate_every} trains the tasks in "
            f"turns, so both must have prompts and pairing must be 'separate'; got {image_prompts} "
            f"image_prompts, {text_prompts} text_prompts and pairing={c.advantage.pairing!r}"
        )
    if c.plan.length and "image" not in c.tasks:
        raise UserError(
            f"config.rl.plan.length must be 0 where no images are drawn; got {c.plan.length}. Set it "
            "to 0, or raise config.rl.rollout.image_prompts"
        )
    if c.reference.update_every and not c.needs_reference:
        raise UserError(
            "config.rl.reference.update_every must be 0 where no task has a KL term; got "
            f"{c.reference.update_every}. Set it to 0, or choose config.kl.TASK.schedule"
        )


def _check_advantages(c: RlConfig) -> None:
    """Raises UserError where the rewards of a group cannot be what a normalization is for."""
    advantage, group_size = c.advantage, c.rollout.group_size
    name = advantage.normalization
    if name == "pass_at_k" and advantage.pass_k >= group_size:
        raise UserError(
            f"config.rl.advantage.pass_k must be below config.rl.rollout.group_size={group_size}, "
            f"or no group would have an advantage; got {advantage.pass_k}. Ask for more samples, "
            "or choose a smaller pass_k"
        )
    if name == "pass_at_k" and advantage.pairing == "unified" and len(c.tasks) == 2:
        raise UserError(
            "config.rl.advantage.normalization='pass_at_k' needs rewards of 0 or 1, which the sum "
            "of an image's and an answer's is not; got pairing='unified'. Choose "
            "pairing='separate' or 'sum_of_advantages'"
        )

    # Z-scores and penalties have both signs, and a penalty belongs to no reward by itself.
    method = f"normalization={name!r}" if name in ("maxrl", "pass_at_k") else ""
    if advantage.sums_normalized_parts:
        method = "multi_objective_aggregation='normalize_then_sum'"
    if method and c.reward_options.normalization == "running":
        raise UserError(
            f"config.rl.advantage.{method} takes rewards as they are; got "
            "config.rewards.options.normalization='running'. Choose 'unit' or 'none'"
        )
    in_reward = [task for task in c.tasks if c.kl[task].is_in_reward]
    if method and in_reward:
        raise UserError(
            f"config.rl.advantage.{method} has no place for a KL term in the rewards; got "
            f"config.kl.{in_reward[0]}.placement='reward'. Choose placement='loss'"
        )


def _check_lengths(c: RlConfig) -> None:
    """Raises UserError where what is about the length of answers cannot be meant so."""
    if "overlong" in c.rewards["image"]:
        raise UserError(
            "config.rewards.image must not have 'overlong', since all images have the same number "
            "of tokens; got it. Name it in config.rewards.text"
        )
    buffer, longest = c.reward_options.overlong_buffer, c.rollout.completion_length
    if "text" in c.tasks and "overlong" in c.rewards["text"] and buffer > longest:
        raise UserError(
            "config.rewards.options.overlong_buffer must be at most "
            f"config.rl.rollout.completion_length={longest}; got {buffer}. A quarter of it is usual"
        )


def _check_minibatches(c: RlConfig, updates_per_step: int, microbatches: int) -> None:
    """Raises UserError where a rollout does not divide into mini-batches, or not all are used."""
    count = c.rollout.minibatches
    if count == 1:
        return
    if updates_per_step % count:
        raise UserError(
            f"config.updates_per_step must be a multiple of config.rl.rollout.minibatches={count}, "
            f"so that every epoch is whole; got {updates_per_step}. Set it to {count} for one epoch"
        )
    if c.plan.length or c.check.prompts:
        raise UserError(
            f"config.rl.rollout.minibatches={count} divides a rollout by prompts, which plans and verdicts "
            f"do not do; got config.rl.plan.length={c.plan.length} and config.rl.check.prompts="
            f"{c.check.prompts}. Set minibatches to 1, or both of these to 0"
        )
    for task, prompts in c.rollout.prompts.items():
        if prompts % (count * microbatches):
            raise UserError(
                f"config.rl.rollout.{task}_prompts must divide into minibatches={count} of "
                f"config.microbatches={microbatches} each; got {prompts}. Choose a multiple of "
                f"{count * microbatches}"
            )


def _check_off_policy(c: RlConfig, updates_per_step: int) -> None:
    """Raises UserError where the sampler may differ from the policy and the loss cannot tell."""
    cap = c.loss.importance_cap
    if c.rollout.one_step_off_policy and (cap == 0 or updates_per_step > 1):
        raise UserError(
            "config.rl.rollout.one_step_off_policy needs importance weights and one update per "
            f"step; got importance_cap={cap} and updates_per_step={updates_per_step}. Set "
            "config.rl.loss.importance_cap=2 and config.updates_per_step=1"
        )
    if cap and c.log_probs.image_alignment != "aligned" and "image" in c.tasks:
        raise UserError(
            f"config.rl.loss.importance_cap={cap} compares log-probs with the sampler's, so "
            f"image_alignment must be 'aligned'; got {c.log_probs.image_alignment!r}. Set "
            "config.rl.loss.importance_cap=0 or config.rl.log_probs.image_alignment=aligned"
        )


def _check_image_credit(c: RlConfig) -> None:
    """Raises UserError where factors of tokens need a reference policy that there is not."""
    if c.loss.image_credit == "third" and "image" in c.tasks and not c.kl["image"].needs_reference:
        raise UserError(
            "config.rl.loss.image_credit='third' multiplies advantages by the ratio to the reference "
            "policy, so config.kl.image.schedule must not be 'none'. Set "
            "config.kl.image.schedule=constant and config.kl.image.start=0.01, as GCPO has them"
        )


def _check_external(c: RlConfig) -> None:
    """Raises UserError where a sample that nobody drew has no place."""
    if not c.has_external("image"):
        return
    if c.advantage.pairing != "separate" and len(c.tasks) == 2:
        raise UserError(
            f"config.rl.external.image={c.external.image!r} puts a sample into groups of images that "
            "no answer belongs to, so config.rl.advantage.pairing must be 'separate'; got "
            f"{c.advantage.pairing!r}"
        )
    if c.plan.length or c.check.prompts:
        raise UserError(
            f"config.rl.external.image={c.external.image!r} puts a picture among the samples that has no "
            "plan and is not the policy's own to check; got "
            f"config.rl.plan.length={c.plan.length} and config.rl.check.prompts={c.check.prompts}. Set "
            "both to 0, or config.rl.external.image=none"
        )
    if c.loss.image_credit != "uniform":
        raise UserError(
            f"config.rl.external.image={c.external.image!r} has a rule of its own for tokens, so "
            f"config.rl.loss.image_credit must be 'uniform'; got {c.loss.image_credit!r}"
        )


def _check_curriculum(c: RlConfig) -> None:
    """Raises UserError where success is not measured, or would mean two things."""
    curriculum, names = c.curriculum, c.success_rewards
    for task, name in names.items():
        if name not in c.rewards[task]:
            raise UserError(
                f"config.rl.curriculum.success.{task} must be one of the rewards in "
                f"config.rewards.{task}, {', '.join(c.rewards[task])}; got {name!r}"
            )
    if curriculum.is_used and not names:
        raise UserError(
            "config.rl.curriculum.success must name the reward that measures success, for a task "
            "that is trained; got none. Set for example config.rl.curriculum.success.text=accuracy"
        )
    if len(curriculum.difficulty) not in (1, len(c.stage_starts)):
        raise UserError(
            f"config.rl.curriculum.difficulty must have 1 name, or {len(c.stage_starts)}, one per "
            f"stage of config.data.stages; got {len(curriculum.difficulty)}"
        )

    # Paired tasks share their advantages, so one weight counts for both.
    is_shared = c.advantage.pairing != "separate" and len(c.tasks) == 2
    if set(curriculum.difficulty) != {"none"} and is_shared and len(names) > 1:
        raise UserError(
            f"config.rl.curriculum.success must name the reward of one task where "
            f"config.rl.advantage.pairing={c.advantage.pairing!r} shares advantages; got "
            f"{len(names)}. Set one of them to ''"
        )
    if curriculum.history != "none" and c.rollout.one_step_off_policy:
        raise UserError(
            "config.rl.curriculum.history needs the outcomes of a step before the next one is "
            "sampled; got config.rl.rollout.one_step_off_policy=True. Set it to False"
        )


def _check_verdicts(c: RlConfig) -> None:
    """Raises UserError where verdicts on own pictures have no pictures, or no score to agree with."""
    check, prompts = c.check, c.rollout.image_prompts
    if not check.prompts:
        return
    if check.prompts > prompts:
        raise UserError(
            f"config.rl.check.prompts must be at most the {prompts} image prompts of a step; got "
            f"{check.prompts}. Lower it, or raise config.rl.rollout.image_prompts"
        )
    if check.reward not in c.rewards["image"]:
        raise UserError(
            "config.rl.check.reward must be one of the rewards in config.rewards.image, "
            f"{', '.join(c.rewards['image'])}; got {check.reward!r}"
        )
    if c.advantage.resample_rounds:
        raise UserError(
            "config.rl.check.prompts must be 0 with dynamic sampling, which replaces pictures; got "
            f"{check.prompts} and config.rl.advantage.resample_rounds={c.advantage.resample_rounds}. "
            "Set one of them to 0"
        )
