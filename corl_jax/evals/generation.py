"""Pictures of held-out captions and how well they show what was asked.

In: sampler, params, tokenizer, records. Out: completions, and named numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from corl_jax.core.sharding import to_host
from corl_jax.core.types import Completion, Params, PromptBatch, Record
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.evals.statistics import Numbers, number
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.sampling.generate import PolicyFns
from corl_jax.tasks.text_to_image import TextToImage

STRICT, SOFT = "shapes_strict", "shapes_soft"
"""Rewards of the embedded world that pictures are measured by."""


def draw_all(
    sampler: PolicyFns,
    params: Params,
    tokenizer: TextTokenizer,
    records: Sequence[Record],
    *,
    guidance: float,
    seed: int,
    batch: int,
    samples: int = 1,
    advance: Callable[[int], object] = lambda done: None,
) -> list[Completion]:
    """``samples`` pictures per record at temperature 1, record by record.

    Args:
      guidance: 1 skips the unconditional stream.
      seed: with a record's place in ``records`` and a sample's number it makes the key, so ``batch`` changes nothing.
      batch: records per compiled call.
      advance: called with the number of records done by each call.
    """
    task = TextToImage(tokenizer)
    asked = task.ask(records)
    sampling = sampler.sampling("image", guidance=guidance)
    out: list[Completion] = []
    for rows, real in batch_rows(len(records), batch_size(len(records), batch)):
        keys = prompt_keys(seed, "eval/draw", rows, samples)
        rollout = sampler.sample_images(
            params, take(asked.prompts, rows), keys, sampling, guided=guidance != 1
        )
        some = PromptBatch(asked.prompts, tuple(asked.records[row] for row in rows[:real]))
        out += task.read_back(
            some, jax.tree.map(lambda leaf, real=real: leaf[:real], to_host(rollout))
        )
        advance(real)
    return out


def generation_numbers(pictures: Sequence[Completion], guidance: float) -> Numbers:
    """``t2i_strict@w=W`` (everything asked for and nothing else) and ``t2i_soft@w=W`` (partial credit)."""
    scores = compute_rewards(pictures, {STRICT: 1.0, SOFT: 0.0}, RewardContext())
    columns = dict(zip(scores.names, scores.matrix.T, strict=True))
    return {
        f"t2i_strict@w={guidance:g}": number(columns[STRICT]),
        f"t2i_soft@w={guidance:g}": number(columns[SOFT]),
    }
