"""What ``config.evals`` measures on held-out records: the embedded world, or the rewards of the run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.problems import problems_of
from corl_jax.core.sharding import sharding_context
from corl_jax.core.types import Completion, Params, Record, Rewards
from corl_jax.data.sources.base import RecordSource
from corl_jax.evals.config import ANSWER_TOKENS, EvalPolicy, EvalSampling
from corl_jax.evals.gallery import Gallery, make_gallery
from corl_jax.evals.generation import STRICT_REWARD
from corl_jax.evals.reward_scores import (
    TaskScores,
    evaluate_rewards,
    records_to_ask,
    records_to_draw,
)
from corl_jax.evals.runner import check_evaluation, evaluate
from corl_jax.evals.statistics import Estimates
from corl_jax.evals.understanding import CORRECT_REWARD
from corl_jax.stages.config import EvalsConfig
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.held_out import HeldOutRecords
from corl_jax.stages.rl.reward_step import RewardScorer
from corl_jax.stages.setup import Setup

EXAMPLES = 16
"""Training records that are looked at where there are no held-out ones yet."""

WORLD_REWARDS = {"image": (STRICT_REWARD,), "text": (CORRECT_REWARD,)}
"""Rewards that the evaluation in the embedded world computes, whatever the run's are."""


class HeldOutEvaluation:
    """Measures a policy on the same held-out records every time.

    Attributes:
      guidance_scale: that images are sampled with in training, and for the gallery.
      tasks: whose rewards are computed, once ``input_checks`` has read the records; none where
        ``scoring`` is of the embedded world.
    """

    tasks: tuple[str, ...] = ()

    def __init__(
        self,
        setup: Setup,
        cfg: RlConfig,
        config: EvalsConfig,
        reward_scorer: RewardScorer,
        held_out: HeldOutRecords,
    ):
        """Arguments are those of training; ``config`` is ``config.evals``. Opens nothing yet."""
        self._setup, self._cfg, self._config = setup, cfg, config
        self._reward_scorer, self._held_out = reward_scorer, held_out
        self._by_rewards = config.scoring == "rewards"

        # The guidance scale of training is always measured, since the report highlights it.
        self.guidance_scale = cfg.rollout.guidance_scale
        self._scales = sorted({*config.guidance_scales, self.guidance_scale})
        self._sampling = EvalSampling(
            config.seed,
            config.batch_size,
            cfg.rollout.completion_length if self._by_rewards else ANSWER_TOKENS,
            setup.sharder.batch_shards,
        )

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """The held-out records, in a fixed order."""
        return self._held_out.first(self._config.num_records, self._config.seed)

    @property
    def num_records(self) -> int:
        """Held-out records that are asked for."""
        return self._config.num_records

    def input_checks(self) -> Iterator[Callable[[], object]]:
        """Reads and checks records before anything is written, see ``RlStage.input_checks``."""
        yield lambda: self.records
        yield lambda: check_evaluation(self._some_records(), self._scales, self._sampling)
        yield lambda: self._check_records(self._some_records())

    def check_scoring(self, records: RecordSource) -> None:
        """Checks that records like the first of ``records`` can be scored.

        Raises:
          UserError: they are not of the embedded world, and ``scoring`` is of that world.
        """
        if self._by_rewards:
            return
        examples = []
        for i in range(min(len(records), EXAMPLES)):
            # A picture that cannot be read is named by whoever checks the training records.
            with contextlib.suppress(UserError):
                examples.append(records[i])
        self._check_records(examples)

    def _some_records(self) -> tuple[Record, ...]:
        """The held-out records, or all that there are where there are fewer."""
        return self._held_out.at_most(self._config.num_records, self._config.seed)

    def _check_records(self, records: Sequence[Record]) -> None:
        """Raises UserError unless these records can be scored."""
        if not self._by_rewards:
            try:
                self._held_out.check(records, WORLD_REWARDS, is_whole=True)
            except UserError as error:
                raise UserError(
                    "config.evals.scoring='world' must have held-out records of the embedded world; "
                    f"got others ({problems_of(error)[0].partition('; ')[0]}). Set --config.evals.scoring=rewards to "
                    "score them by the rewards of the run"
                ) from None
            return

        self._held_out.check(records, self._cfg.rewards)
        scores = self._scores({})
        scored = {"image": records_to_draw(records, scores), "text": records_to_ask(records)}
        self.tasks = tuple(task for task in scores if scored[task])
        if not any(scored.values()):
            raise UserError(
                f"the {len(records)} held-out records must have captions and image rewards, or "
                "questions about pictures; got neither. Set config.evals.num_records=0, or name "
                "their columns with --config.data.columns"
            )

    def __call__(self, params: Params, label: str) -> tuple[Estimates, Gallery]:
        """Metrics and a gallery of the policy with ``params``. All processes call it together.

        Args:
          params: of the policy, as ``Setup.rollout_params`` returns them.
          label: of the progress bar.
        """
        policy = EvalPolicy(
            self._setup.rollout_policy, params, self._setup.tokenizer, self._cfg.plans
        )
        measured = (policy, self.records, self._scales, self._sampling)
        quiet = jax.process_index() > 0
        scores = self._scores(params) if self._by_rewards else None
        with sharding_context(self._setup.sharder):
            if scores is None:
                metrics = evaluate(*measured, label=label, quiet=quiet)
            else:
                metrics = evaluate_rewards(*measured, scores, label=label, quiet=quiet)
            gallery = make_gallery(
                policy,
                self.records,
                self._sampling,
                guidance_scale=self.guidance_scale,
                scores=scores,
            )
        return metrics, gallery

    def _scores(self, params: Params) -> TaskScores:
        """The rewards of the run, of the tasks that have some."""
        return {
            task: functools.partial(self._score, params, task)
            for task, rewards in self._cfg.rewards.items()
            if rewards
        }

    def _score(self, params: Params, task: str, completions: Sequence[Completion]) -> Rewards:
        rows = self._sampling.rows_per_call(len(completions))
        return self._reward_scorer.score_completions(params, task, completions, rows)
