"""What the RL stage reads from a config, checked once. In: a config; out: ``RlSettings``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.objectives.advantages import PAIRINGS, baselines, normalizations
from corl_jax.objectives.kl import KlConfig
from corl_jax.objectives.policy_gradient import CLIPS
from corl_jax.objectives.sampling_distribution import SamplingParams, check_sampling_params
from corl_jax.objectives.token_weights import aggregations
from corl_jax.rewards.base import rewards
from corl_jax.rewards.config import RewardSettings
from corl_jax.rewards.custom import register_custom
from corl_jax.rewards.cycle import check_names
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.quantized import KINDS
from corl_jax.stages.config import block

TASKS = ("image", "text")
LOGPROB_GUIDANCE = ("matched", "conditional")
ALIGNMENTS = ("aligned", "reference_off_by_one")


@dataclasses.dataclass(frozen=True)
class RlSettings:
    """The block ``rl`` together with ``rewards`` and ``kl``.

    Attributes:
      pictures, questions: prompts of each task per step (0 leaves a task out).
      alternate: steps in a row of one task alone, pictures first; 0: both tasks in every step.
      group: samples per prompt, ``G``.
      guidance, temperature: of the sampler; the scorer uses the same.
      logprob_guidance: ``matched`` scores pictures under the guided distribution, ``conditional`` without guidance, as
        the reference code does.
      image_logprob_alignment: ``aligned`` scores an image token by the state that predicts it,
        ``reference_off_by_one`` by the one after, as the reference code does.
      image_prompt_length, text_prompt_length, completion_length: fixed widths in tokens.
      pairing, text_weight: how the two tasks share rewards, see ``objectives.advantages.paired_advantages``.
      baseline, scale: of advantages. aggregation: of token losses.
      clip, epsilon_low, epsilon_high, clip_ceiling: of the surrogate, see ``objectives.policy_gradient.clipped_surrogate``.
      entropy_bonus: task to what a nat of entropy per token takes off its loss.
      image_weight, answer_weight: each task's share of the loss.
      shared_prefix: tasks whose completions are scored behind one reading of their prompt.
      score_chunk: tokens of every completion whose logits are held at a time while scoring and in the update; 0: all.
      rollout_weights, rollout_cache: how the sampler holds them, see ``sampling.quantized``; the scorer never changes.
      stale_rollouts: sample a step's completions one update early, so that the device samples during rewards.
      importance_cap: the longest weight of a token by which its sampler may differ from the policy, see
        ``objectives.policy_gradient.importance_weights``; 0: none.
      reference_every, reference_mix: steps after which the reference moves towards the policy, and how far; 0: it
        stays. See ``engine.reference_policy``.
      refill: further rounds per step that replace groups without signal, at most; see ``stages.rl.resample``.
      reward: choices that rewards share.
      rewards: task to (reward name to weight). kl: task to its coefficient's config.
    """

    pictures: int
    questions: int
    alternate: int
    group: int
    guidance: float
    temperature: float
    logprob_guidance: str
    image_logprob_alignment: str
    image_prompt_length: int
    text_prompt_length: int
    completion_length: int
    pairing: str
    text_weight: float
    baseline: str
    scale: str
    aggregation: str
    clip: str
    epsilon_low: float
    epsilon_high: float
    clip_ceiling: float
    entropy_bonus: Mapping[str, float]
    image_weight: float
    answer_weight: float
    shared_prefix: tuple[str, ...]
    score_chunk: int
    rollout_weights: str
    rollout_cache: str
    stale_rollouts: bool
    importance_cap: float
    reference_every: int
    reference_mix: float
    refill: int
    reward: RewardSettings
    rewards: Mapping[str, Mapping[str, float]]
    kl: Mapping[str, KlConfig]

    @property
    def asked(self) -> tuple[str, ...]:
        """The tasks that are trained."""
        return tuple(
            task for task, rows in (("image", self.pictures), ("text", self.questions)) if rows
        )

    def prompts(self, task: str) -> int:
        """Prompts of a task per step, ``B``."""
        return self.pictures if task == "image" else self.questions

    @property
    def needs_reference(self) -> bool:
        """Whether any KL coefficient can differ from 0."""
        return any(self.kl[task].used for task in self.asked)

    @property
    def guided_sampler(self) -> bool:
        """Whether the unconditional stream is run while sampling."""
        return self.guidance != 1

    def sampling(self, sampler: PolicyFns, task: str) -> SamplingParams:
        """The sampler's settings, which the scorer uses too."""
        return sampler.sampling(
            task, guidance=self.guidance if task == "image" else 1.0, temperature=self.temperature
        )

    def scoring(self, task: str) -> dict[str, Any]:
        """How ``sampling.log_probs`` is to score a task."""
        guided = task == "image" and self.guided_sampler and self.logprob_guidance == "matched"
        aligned = task == "text" or self.image_logprob_alignment == "aligned"
        shared = task in self.shared_prefix
        return {
            "guided": guided,
            "aligned": aligned,
            "shared_prefix": shared,
            "chunk": self.score_chunk,
        }

    def share(self, task: str) -> float:
        """The task's share of the loss."""
        return self.image_weight if task == "image" else self.answer_weight


def read_settings(config: Mapping[str, Any], updates: int) -> RlSettings:
    """The blocks ``rl``, ``rewards`` and ``kl`` of a config.

    Raises:
      UserError: a value or combination that cannot be trained with.
    """
    tables = {task: dict(config["rewards"][task]) for task in TASKS}
    raw_kl = {task: block(KlConfig, config["kl"][task], f"kl.{task}") for task in TASKS}
    reward = block(
        RewardSettings, config["reward"] | {"own": tuple(config["reward"]["own"])}, "reward"
    )
    register_custom(reward.own)
    s = block(RlSettings, config["rl"], "rl", reward=reward, rewards=tables, kl=raw_kl)
    if s.group < 2:
        raise UserError(
            f"rl.group={s.group} leaves nothing to compare with; expected at least 2 samples per prompt"
        )
    if s.temperature == 0:
        raise UserError(
            "rl.temperature=0 makes all samples of a group the same; expected more than 0"
        )
    check_sampling_params(guidance=s.guidance, temperature=s.temperature)
    for name, value, known in (
        ("pairing", s.pairing, PAIRINGS),
        ("clip", s.clip, CLIPS),
        ("logprob_guidance", s.logprob_guidance, LOGPROB_GUIDANCE),
        ("image_logprob_alignment", s.image_logprob_alignment, ALIGNMENTS),
        ("rollout_weights", s.rollout_weights, KINDS),
        ("rollout_cache", s.rollout_cache, KINDS),
    ):
        if value not in known:
            raise UserError(f"rl.{name}={value!r} is unknown; expected one of {', '.join(known)}")
    if not isinstance(s.shared_prefix, tuple) or set(s.shared_prefix) - set(TASKS):
        raise UserError(
            f"rl.shared_prefix={s.shared_prefix!r} is no tuple of tasks; expected some of {TASKS}, or ()"
        )
    if s.score_chunk < 0:
        raise UserError(
            f"rl.score_chunk={s.score_chunk} is no number of tokens; expected 0 (all at once) or more"
        )
    normalizations[s.scale], baselines[s.baseline], aggregations[s.aggregation]
    _check_variants(s)
    check_names(reward)
    for table in tables.values():
        for name in table:
            rewards[name]
    if s.importance_cap != 0 and s.importance_cap < 1:
        raise UserError(
            f"rl.importance_cap={s.importance_cap} would shrink tokens that need no weight; expected 0 or 1 up"
        )
    if s.stale_rollouts and (s.importance_cap == 0 or updates > 1):
        raise UserError(
            f"rl.stale_rollouts needs importance weights and one update a step, but "
            f"rl.importance_cap={s.importance_cap} and updates_per_step={updates}; set rl.importance_cap=2 and "
            "updates_per_step=1"
        )
    if empty := [task for task in s.asked if not tables[task]]:
        raise UserError(
            f"no reward is configured for {empty[0]}; name at least one in config.rewards.{empty[0]}"
        )
    if s.pairing != "separate" and s.pictures and s.questions and s.pictures != s.questions:
        raise UserError(
            f"rl.pairing={s.pairing!r} pairs every picture with an answer, but there are {s.pictures} prompts and "
            f"{s.questions} questions per step; make them equal or choose pairing='separate'"
        )
    if s.alternate < 0:
        raise UserError(
            f"rl.alternate={s.alternate} is no number of steps; expected 0 (both tasks a step) or more"
        )
    if s.alternate and (len(s.asked) < 2 or s.pairing != "separate"):
        raise UserError(
            f"rl.alternate={s.alternate} takes turns between both tasks, each with its own advantages, but there are "
            f"{s.pictures} prompts and {s.questions} questions with rl.pairing={s.pairing!r}; ask both, 'separate'"
        )
    if updates < 1:
        raise UserError(f"updates_per_step={updates} is no count; expected 1 or more")
    return s


def _check_variants(s: RlSettings) -> None:
    """Refuses what the variants of the objective cannot mean.

    Raises:
      UserError: a number out of range, or two settings that contradict each other.
    """
    if s.clip == "two_sided" and s.clip_ceiling <= 1 + s.epsilon_high:
        raise UserError(
            f"rl.clip_ceiling={s.clip_ceiling} lies within the clip, which ends at 1 + rl.epsilon_high="
            f"{1 + s.epsilon_high:g}; expected more, such as 3"
        )
    if not isinstance(s.entropy_bonus, Mapping) or set(s.entropy_bonus) != set(TASKS):
        raise UserError(
            f"rl.entropy_bonus={s.entropy_bonus!r}; expected one number for each of {', '.join(TASKS)}"
        )
    for task, bonus in s.entropy_bonus.items():
        if not 0 <= bonus < float("inf"):
            raise UserError(f"rl.entropy_bonus.{task}={bonus} is out of range; expected 0 or more")
    for name, count in (("reference_every", s.reference_every), ("refill", s.refill)):
        if not isinstance(count, int) or count < 0:
            raise UserError(
                f"rl.{name}={count!r} is no count; expected 0 (never) or a whole number above"
            )
    if s.reference_every and not s.needs_reference:
        raise UserError(
            f"rl.reference_every={s.reference_every} moves a reference that nothing is measured from; give config.kl "
            "a coefficient above 0, or set rl.reference_every=0"
        )
    if not 0 < s.reference_mix <= 1:
        raise UserError(
            f"rl.reference_mix={s.reference_mix} is no share of the policy; expected more than 0, at most 1"
        )
    if s.importance_cap and s.image_logprob_alignment != "aligned" and "image" in s.asked:
        raise UserError(
            f"rl.importance_cap={s.importance_cap} compares the scorer with the sampler, whose distributions "
            f"rl.image_logprob_alignment={s.image_logprob_alignment!r} makes those of different tokens; set one of "
            "rl.importance_cap=0, rl.image_logprob_alignment=aligned"
        )
