"""Rewards outside training, for completions from a file or for answers of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.types import Completion
from corl_jax.data.images import resize_image
from corl_jax.data.record_files import RecordRow
from corl_jax.data.records import image_of
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.requirements import required_models
from corl_jax.sampling.policy import Answer, Policy
from corl_jax.sampling.policy_handle import RewardPolicyHandle

BATCH_SIZE = 16


def score_rows(
    rows: Sequence[RecordRow],
    names: Sequence[str],
    options: RewardOptions,
    policy: Policy | None,
    image_size: int,
    answer_length: int,
) -> dict[str, Any]:
    """Computes every reward of every row.

    Args:
      rows: from ``data.record_files.read_records``.
      names: of the rewards.
      options: choices that several rewards share.
      policy: for rewards that use one, or None.
      image_size: side in pixels that images are resized to first, as those of a policy are.
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
        pixels = resize_image(row.image, (image_size, image_size))
        completions.append(Completion(row.record, text, pixels, truncated))

    # Every reward has weight 1, since only the values of each are reported and not the total.
    weights = dict.fromkeys(names, 1.0)
    batches = [
        compute_rewards(completions[start : start + BATCH_SIZE], weights, context).matrix
        for start in tqdm(range(0, len(rows), BATCH_SIZE), desc="score", unit="batch", delay=1)
    ]
    matrix = np.concatenate(batches)

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


def _reward_context(
    names: Sequence[str], options: RewardOptions, policy: Policy | None
) -> RewardContext:
    """The policy and the reward models that the rewards need, on all devices."""
    # Models are loaded before any completion is made, so that a missing one fails at once.
    reward_models = RewardModels(options.models, Sharder(make_mesh({"data": -1})))
    reward_models.load(sorted(required_models(names, options)))
    if policy is None:
        return RewardContext(None, reward_models, options)
    handle = RewardPolicyHandle(policy.fns, policy.tokenizer, policy.params)
    return RewardContext(handle, reward_models, options)


def _missing_answers(
    rows: Sequence[RecordRow], policy: Policy, answer_length: int
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
