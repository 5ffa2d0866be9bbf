"""Rewards outside training. In: rows of a file, names of rewards, maybe a policy. Out: the numbers row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.types import Completion
from corl_jax.data.images import resized
from corl_jax.data.record_files import Row
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardSettings
from corl_jax.rewards.requirements import needed
from corl_jax.sampling.policy import Policy
from corl_jax.sampling.policy_handle import RewardPolicyHandle

BATCH = 16


def score_rows(
    rows: Sequence[Row],
    names: Sequence[str],
    settings: RewardSettings,
    policy: Policy | None,
    size: int,
    answer: bool,
) -> dict[str, Any]:
    """Every reward of every row.

    Args:
      rows: of ``data.record_files.read_records``.
      names: of rewards.
      settings: how they are made.
      policy: for rewards that read with it.
      size: side in pixels that pictures are brought to first, as the policy's own are.
      answer: let the policy answer the questions of rows without a completion.

    Returns:
      mean and standard deviation by reward, and for each row its id, completion and values.
    """
    sharder = Sharder(make_mesh({"data": -1}))
    nets = RewardModels(settings.models, sharder)
    nets.open(sorted(needed(names, settings)))
    handle = (
        None
        if policy is None
        else RewardPolicyHandle(policy.sampler, policy.tokenizer, policy.params)
    )
    context = RewardContext(handle, nets, settings)
    texts = [row.completion for row in rows]
    silent = [i for i, text in enumerate(texts) if text is None]
    if answer and policy is not None and silent:
        said = policy.answer(
            [rows[i].record.image for i in silent], [rows[i].record.question for i in silent]
        )
        for i, text in zip(silent, said, strict=True):
            texts[i] = text
    completions = [
        Completion(row.record, text=text, pixels=resized(row.picture, (size, size)))
        for row, text in zip(rows, texts, strict=True)
    ]
    table = dict.fromkeys(names, 1.0)
    parts = [
        compute_rewards(completions[start : start + BATCH], table, context).matrix
        for start in tqdm(range(0, len(rows), BATCH), desc="score", unit="batch", delay=1)
    ]
    matrix = np.concatenate(parts)
    return {
        "rewards": {
            name: {"mean": float(column.mean()), "std": float(column.std())}
            for name, column in zip(names, matrix.T, strict=True)
        },
        "rows": [
            {
                "id": one.record.id,
                "completion": one.text,
                **dict(zip(names, map(float, values), strict=True)),
            }
            for one, values in zip(completions, matrix, strict=True)
        ],
    }
