"""Rewards outside training, for completions from a file or for answers of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.types import Completion
from corl_jax.data.images import resize_image
from corl_jax.data.records import image_of
from corl_jax.data.scored_rows import ScoredRow
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.requirements import required_models
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.sampling.policy_handle import RewardPolicyHandle

BATCH_SIZE = 16


def score_rows(
    rows: Sequence[ScoredRow],
    names: Sequence[str],
    options: RewardOptions,
    policy: Policy | None,
    answer_length: int,
) -> dict[str, Any]:
    """Computes every reward of every row.

    Args:
      rows: from ``data.scored_rows.read_scored_rows``.
      names: of the rewards.
      options: choices that several rewards share.
      policy: for rewards that use one, or None. Pictures are resized to the size of its images;
        without one they keep their own.
      answer_length: lets the policy answer the questions of rows without a completion, in so many
        tokens at most; 0 does not.

    Returns:
      ``rewards``: mean and standard deviation by the name of the reward; ``rows``: id, completion,
      whether it was cut at its length, and value of every reward for each row.
    """
    context = _reward_context(names, options, policy)

    # Completions: those of the file, and where there is none the policy's answer.
    answers: dict[int, Answer] = {}
    if answer_length and policy is not None:
        answers = _missing_answers(rows, policy, answer_length)
    completions = []
    for i, row in enumerate(rows):
        text, truncated = row.completion, False
        if i in answers:
            text, truncated = answers[i].text, answers[i].is_truncated
        pixels = row.image
        if policy is not None and pixels is not None:
            pixels = resize_image(pixels, (policy.cfg.image_size, policy.cfg.image_size))
        completions.append(Completion(row.record, text, pixels, truncated))

    # Every reward has weight 1, since only the values of each are reported and not the total.
    weights = dict.fromkeys(names, 1.0)
    matrix = np.zeros((len(rows), len(names)), np.float32)
    for batch in tqdm(_batches(completions), desc="score", unit="batch", delay=1):
        matrix[batch] = compute_rewards([completions[i] for i in batch], weights, context).matrix

    # Columns of the matrix are rewards, rows are completions.
    statistics = {
        name: {"mean": float(column.mean()), "std": float(column.std())}
        for name, column in zip(names, matrix.T, strict=True)
    }
    row_entries = []
    for completion, values in zip(completions, matrix, strict=True):
        entry: dict[str, Any] = {"id": completion.record.id, "completion": completion.text}
        entry["truncated"] = completion.is_truncated
        row_entries.append(entry | dict(zip(names, map(float, values), strict=True)))
    return {"rewards": statistics, "rows": row_entries}


def _batches(completions: Sequence[Completion]) -> list[list[int]]:
    """Positions of completions, those of a batch with pictures of one size, since rewards stack them."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, completion in enumerate(completions):
        shape = () if completion.pixels is None else completion.pixels.shape
        by_shape.setdefault(shape, []).append(i)
    return [
        rows[start : start + BATCH_SIZE]
        for rows in by_shape.values()
        for start in range(0, len(rows), BATCH_SIZE)
    ]


def _reward_context(
    names: Sequence[str], options: RewardOptions, policy: Policy | None
) -> RewardContext:
    """The policy and the reward models that the rewards need, on all devices."""
    # Models are loaded before any completion is made, so that a missing one fails at once.
    reward_models = RewardModels(options.models, Sharder(make_mesh({"data": -1})))
    reward_models.load(sorted(required_models(names, options)))
    if policy is None:
        return RewardContext(None, reward_models, options)
    # Nothing is trained here, so the policy that was named is every judge.
    handle = RewardPolicyHandle(
        policy.fns, policy.tokenizer, policy.params, reference=policy.params
    )
    return RewardContext(handle, reward_models, options)


def _missing_answers(
    rows: Sequence[ScoredRow], policy: Policy, answer_length: int
) -> dict[int, Answer]:
    """The policy's answers to the questions of rows without a completion, by row."""
    missing = [i for i, row in enumerate(rows) if row.completion is None]
    if not missing:
        return {}
    # One call for all of them: the policy forms its own batches.
    answers = policy.sample_answers(
        [image_of(rows[i].record) for i in missing],
        [rows[i].record.question for i in missing],
        max_tokens=answer_length,
    )
    return dict(zip(missing, answers, strict=True))
