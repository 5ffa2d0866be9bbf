"""Held-out records scored by the rewards of a run, where nothing says exactly what a picture shows.

A record takes part in what it has: its caption is drawn, its question is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from corl_jax.core.progress import ProgressBar
from corl_jax.core.types import Completion, Record, Rewards
from corl_jax.data.records import has_task
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.generation import generate_all
from corl_jax.evals.runner import check_evaluation
from corl_jax.evals.statistics import Estimates, estimate
from corl_jax.evals.understanding import answer_all, understanding_metrics

TaskScores = Mapping[str, Callable[[Sequence[Completion]], Rewards]]
"""Task to the rewards of its completions, for the tasks that have rewards: ``N`` rows in, ``N`` out.
All processes call it together, each with all completions."""


def records_to_draw(records: Sequence[Record], scores: TaskScores) -> list[Record]:
    """The records whose captions are drawn: none where no reward scores pictures."""
    return [record for record in records if "image" in scores and has_task(record, "image")]


def records_to_ask(records: Sequence[Record]) -> list[Record]:
    """The records with a question about a picture, and its answer."""
    return [record for record in records if has_task(record, "text")]


def evaluate_rewards(
    policy: EvalPolicy,
    records: Sequence[Record],
    guidance_scales: Sequence[float],
    sampling: EvalSampling,
    scores: TaskScores,
    *,
    label: str = "evaluating",
    quiet: bool = False,
) -> Estimates:
    """Rewards of pictures at every guidance scale, and of answers at temperatures 0 and 1.

    Args:
      policy: what is evaluated.
      records: held out from training, in a fixed order.
      guidance_scales: one image per caption is generated at each; none may repeat.
      sampling: seed, batch size and length of answers.
      scores: the rewards of each task.
      label: of the progress bar on stderr.
      quiet: shows no progress bar.

    Returns:
      ``reward/image/NAME@w=W`` by reward and guidance scale, ``reward/text/NAME`` of sampled answers
      and ``reward/text/NAME@greedy``; the same without ``/NAME`` for the weighted sum; and the names
      of ``understanding_metrics``.

    Raises:
      UserError: as ``runner.evaluate``, or a reward fails.
    """
    check_evaluation(records, guidance_scales, sampling)
    drawn, asked = records_to_draw(records, scores), records_to_ask(records)

    # The same seed everywhere: scales and temperatures are compared on common random numbers.
    metrics: Estimates = {}
    with ProgressBar(
        len(drawn) * len(guidance_scales) + 2 * len(asked),
        label=label,
        unit="sample",
        quiet=quiet,
    ) as bar:
        bar.show_status("compiling")
        for scale in guidance_scales if drawn else ():
            images = generate_all(policy, drawn, scale, sampling, on_batch=bar.update)
            metrics |= reward_metrics("image", scores["image"](images), f"@w={scale:g}")

        if asked:
            greedy = answer_all(policy, asked, 0.0, sampling, on_batch=bar.update)
            sampled = answer_all(policy, asked, 1.0, sampling, on_batch=bar.update)
            if "text" in scores:
                metrics |= reward_metrics("text", scores["text"](sampled))
                metrics |= reward_metrics("text", scores["text"](greedy), "@greedy")
            metrics |= understanding_metrics(greedy, sampled)
    return metrics


def reward_metrics(task: str, rewards: Rewards, suffix: str = "") -> Estimates:
    """The mean of the total and of each reward, with their standard errors."""
    columns: dict[str, np.ndarray] = {f"reward/{task}{suffix}": rewards.total}
    for name, column in zip(rewards.names, rewards.matrix.T, strict=True):
        columns[f"reward/{task}/{name}{suffix}"] = column
    return {name: estimate(column) for name, column in columns.items()}
