"""Text-to-image on held-out records: images of their captions, and how well these match."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from corl_jax.core.sharding import to_host
from corl_jax.core.types import Completion, PromptBatch, Record
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.statistics import Estimates, estimate
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.batching import batch_rows, prompt_keys, take
from corl_jax.sampling.plans import behind_plans
from corl_jax.tasks.text_to_image import TextToImage

STRICT_REWARD, SOFT_REWARD = "shapes_strict", "shapes_soft"
"""Rewards of the embedded world that measure an image: all or nothing, and partial credit."""


def generate_all(
    policy: EvalPolicy,
    records: Sequence[Record],
    guidance_scale: float,
    sampling: EvalSampling,
    samples: int = 1,
    rows: Sequence[int] | None = None,
    on_batch: Callable[[int], object] = lambda records_done: None,
) -> list[Completion]:
    """Samples images of the captions of all records at temperature 1, behind plans if it has any.

    Args:
      policy: what generates them.
      records: ``N`` records.
      guidance_scale: of classifier-free guidance; at 1 the unconditional prompt is not run.
      sampling: seed and batch size. The key of a sample depends on the seed, the record's place in
        ``records`` and the number of the sample.
      samples: images per record, ``G``.
      rows: places of the records that are sampled; None for all of them. The calls have one shape
        whichever these are.
      on_batch: called after every compiled call with the number of images in it.

    Returns:
      ``G`` completions for each of them, record by record.
    """
    # All prompts are padded to one width, and an image is a row, so that every call has one shape.
    task = TextToImage(policy.tokenizer, has_plan=policy.plans is not None)
    prompt_batch = task.make_prompts(records)
    sampling_params = policy.fns.sampling_params("image", guidance=guidance_scale)

    # The stream name is part of the keys: renaming it would change every sample.
    places = np.arange(len(records)) if rows is None else np.asarray(rows)
    keys = prompt_keys(sampling.seed, "eval/draw", places, samples).reshape(-1, 1)
    if policy.plans is not None:
        requests = policy.plans.requests(policy.tokenizer, [record.prompt for record in records])
        plan_keys = prompt_keys(sampling.seed, "eval/plan", places, samples).reshape(-1, 1)
    places = np.repeat(places, samples)

    completions: list[Completion] = []
    size = sampling.rows_per_call(len(records))
    for images, valid in batch_rows(len(places), size):
        prompts = take(prompt_batch.prompts, places[images])
        if policy.plans is not None:
            plans = policy.fns.sample_text(
                policy.params,
                take(requests, places[images]),
                plan_keys[images],
                policy.fns.sampling_params("text"),
                policy.plans.length,
            )
            prompts = behind_plans(prompts, plans, policy.tokenizer)
        rollout = policy.fns.sample_images(
            policy.params, prompts, keys[images], sampling_params, guided=guidance_scale != 1
        )

        # The last call is filled up with copies of the last prompt; only `valid` rows count.
        rollout = jax.tree.map(lambda leaf, valid=valid: leaf[:valid], to_host(rollout))
        batch_records = tuple(prompt_batch.records[place] for place in places[images[:valid]])
        completions += task.to_completions(
            PromptBatch(prompt_batch.prompts, batch_records), rollout
        )
        on_batch(valid)
    return completions


def generation_metrics(images: Sequence[Completion], guidance_scale: float) -> Estimates:
    """Metrics of generated images.

    Returns:
      ``t2i_strict@w=W``: share of images that show everything the caption names and nothing else;
      ``t2i_soft@w=W``: the same with partial credit. ``W`` is the guidance scale.
    """
    # The weights only matter for the total, which is not used here.
    rewards = compute_rewards(images, {STRICT_REWARD: 1.0, SOFT_REWARD: 0.0}, RewardContext())
    columns = dict(zip(rewards.names, rewards.matrix.T, strict=True))
    return {
        f"t2i_strict@w={guidance_scale:g}": estimate(columns[STRICT_REWARD]),
        f"t2i_soft@w={guidance_scale:g}": estimate(columns[SOFT_REWARD]),
    }
