"""The rules between the blocks of ``config.rl``, ``config.rewards`` and ``config.kl``.

``config_blocks.py`` has those within a block.
"""

from __future__ import annotations

import functools

from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems
from corl_jax.stages.rl.config import RlConfig


def check_rules(c: RlConfig, updates_per_step: int, microbatches: int) -> None:
    """Raises UserError about all values that do not fit together."""
    problems = Problems()
    for check in (
        _check_tasks,
        _check_advantages,
        _check_lengths,
        functools.partial(_check_off_policy, updates_per_step=updates_per_step),
        functools.partial(
            _check_minibatches, updates_per_step=updates_per_step, microbatches=microbatches
        ),
        _check_curriculum,
        _check_verdicts,
        _check_image_credit,
        _check_external,
    ):
        with problems.collect():
            check(c)
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
