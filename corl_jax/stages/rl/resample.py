"""Groups that teach nothing, replaced by groups of further prompts: dynamic sampling (DAPO; Yu et al., 2025, 3.2).

In: the rollouts of a step and their rewards. Out: the same in the same shapes, where groups whose rewards are all equal
made room for others. Every round draws a whole batch with the programs of the step, so nothing is compiled anew.

What is asked in a round, and the keys of its samples, are functions of (seed, step, round); what is replaced follows
from the rewards, which every process has in whole. So resuming is exact and all processes do the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.rng import stream
from corl_jax.core.types import Params, PromptBatch, Record, Rewards
from corl_jax.data.pipeline import Rows
from corl_jax.data.sources import RecordSource
from corl_jax.objectives.advantages import zero_std_groups
from corl_jax.stages.rl.reward_step import RewardScorer, ScoredRollouts
from corl_jax.stages.rl.rollouts import RolloutBatch, RolloutSampler
from corl_jax.tasks.joint import Joint


@dataclasses.dataclass(frozen=True)
class DynamicSampling:
    """At most ``settings.refill`` further rounds per step; where they do not suffice, groups without signal stay.

    Attributes:
      joint: asks records both ways.
      rollouts, judge: of the stage.
      source: opens what is asked.
      seed: of the run.
    """

    joint: Joint
    rollouts: RolloutSampler
    judge: RewardScorer
    source: Callable[[], RecordSource]
    seed: int

    def __call__(self, params: Params, judged: ScoredRollouts) -> ScoredRollouts:
        """``judged`` with other groups in place of silent ones, and under ``said`` how often was drawn and replaced.

        Args:
          params: of the policy that samples.
          judged: the step's own rollouts.
        """
        rounds, replaced = 0, dict.fromkeys(judged.scores, 0)
        while rounds < self.rollouts.settings.refill:
            holes = {
                task: flags for task, flags in self.silent(judged.scores).items() if flags.any()
            }
            if not holes:
                break
            rounds += 1
            records = self.records(judged.drawn.step, rounds)
            further = self.further(params, records, judged.drawn.step, rounds, tuple(holes))
            flat = self.silent(further.scores)
            for task, flags in holes.items():
                source = replacements(flags, ~flat[task])
                replaced[task] += int((source >= 0).sum())
                judged = self.exchanged(judged, further, task, source, records)
        said = {"resample/rounds": float(rounds)}
        said |= {
            f"{task}/resampled": count / self.rollouts.settings.prompts(task)
            for task, count in replaced.items()
        }
        sharder, drawn = self.rollouts.parts.sharder, judged.drawn
        drawn = dataclasses.replace(
            drawn, rollouts=sharder.put_batch(drawn.rollouts)
        )  # placed alike in every step
        return ScoredRollouts(drawn, sharder.local_rows(drawn.rollouts), judged.scores, said)

    def silent(self, scores: Mapping[str, Rewards]) -> dict[str, np.ndarray]:
        """By task the groups without signal, ``[B]``, judged by rewards as they came."""
        s = self.rollouts.settings
        totals = {task: one.total.reshape(-1, s.group) for task, one in scores.items()}
        return zero_std_groups(totals, pairing=s.pairing, text_weight=s.text_weight)

    def records(self, step: int, round_: int) -> Rows:
        """As many records as a step asks, none of them twice."""
        source = self.source()
        order = np.asarray(
            jax.random.permutation(stream(self.seed, f"refill {round_}", step), len(source))
        )
        return Rows(source, tuple(map(int, order[: self.joint.batch_size])))

    def further(
        self, params: Params, records: Rows, step: int, round_: int, tasks: tuple[str, ...]
    ) -> ScoredRollouts:
        """The rollouts of a round, and their rewards."""
        asked = self.joint(records, step)
        drawn = self.rollouts.sample_batch(
            params, {task: asked[task] for task in tasks}, step, f"refill {round_}/"
        )
        return self.judge.judged(params, drawn)

    def exchanged(
        self,
        judged: ScoredRollouts,
        further: ScoredRollouts,
        task: str,
        source: np.ndarray,
        records: Sequence[Record],
    ) -> ScoredRollouts:
        """``judged`` with the groups of ``task`` that ``source`` names taken from ``further``.

        Args:
          source: ``[B]``: for every group the one of ``further`` that takes its place, or -1.
          records: what ``further`` asked, whole; read only where it is taken.
        """
        drawn, rollouts = judged.drawn, self.rollouts
        prompts = len(source)
        rows = np.repeat(source, copies := rollouts.prompt_repeats(prompts))
        rows = np.where(rows >= 0, rows * copies + np.arange(len(rows)) % copies, -1).astype(
            np.int32
        )
        old = (drawn.asked[task].prompts, drawn.rollouts[task])
        new = (further.drawn.asked[task].prompts, further.drawn.rollouts[task])
        asked, rollout = rollouts.parts.sharder.put_batch(_taken(old, new, rows))
        share = rollouts.share(prompts)
        kept = zip(share, drawn.asked[task].records, strict=True)
        own = tuple(records[int(source[p])] if source[p] >= 0 else record for p, record in kept)
        was, now = judged.scores[task], further.scores[task]
        matrix, total = (
            _groups(was.matrix, now.matrix, source),
            _groups(was.total, now.total, source),
        )
        return ScoredRollouts(
            RolloutBatch(
                drawn.step,
                drawn.asked | {task: PromptBatch(asked, own)},
                drawn.rollouts | {task: rollout},
            ),
            judged.local_rows,
            judged.scores | {task: Rewards(was.names, matrix, total)},
        )


def replacements(holes: np.ndarray, offers: np.ndarray) -> np.ndarray:
    """For every group the number of the one that takes its place, or -1: the first hole takes the first offer.

    Args:
      holes: bool ``[B]``, groups to replace.
      offers: bool ``[B]``, groups that may take their place.
    """
    source = np.full(len(holes), -1)
    for hole, offer in zip(np.flatnonzero(holes), np.flatnonzero(offers), strict=False):
        source[hole] = offer
    return source


def _groups(old: np.ndarray, new: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``old [B * G, ...]`` with group ``i`` replaced by group ``source[i]`` of ``new`` where that is not -1."""
    out = old.reshape(len(source), -1).copy()
    out[source >= 0] = new.reshape(len(source), -1)[source[source >= 0]]
    return out.reshape(old.shape)


@jax.jit
def _taken(old: Any, new: Any, rows: jax.Array) -> Any:
    """Every leaf of ``old`` with row ``i`` replaced by row ``rows[i]`` of ``new`` where that is not -1."""

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where((rows >= 0).reshape(-1, *[1] * (a.ndim - 1)), b[jnp.maximum(rows, 0)], a)

    return jax.tree.map(one, old, new)
