"""Our own scores of pictures that were drawn: rewards by name, and the CLIP score.

The first process reads the pictures, all processes compute together, each a part of the rows.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import all_gather, on_all_processes, on_first_process
from corl_jax.core.sharding import Sharder
from corl_jax.core.types import Completion, PolicyHandle
from corl_jax.data.images import resize_image
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards, rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.requirements import required_models
from corl_jax.suites.generation.drawing import picture_records, prompt_record
from corl_jax.suites.generation.picture_files import read_pictures
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import GenerationSuite
from corl_jax.suites.results import PICTURES, SuiteRecord

CLIP_SCORE = "clip_score"
"""100 times the cosine of picture and prompt, at least 0, as torchmetrics' ``CLIPScore``."""
ROWS = 16
"""Pictures per process that are scored together."""


def score_pictures(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    folder: pathlib.Path,
    samples: int,
    image_size: int,
    names: Sequence[str],
    options: RewardOptions,
    sharder: Sharder,
    policy: PolicyHandle | None = None,
    quiet: bool = False,
) -> tuple[SuiteRecord, ...]:
    """Computes scores of all pictures in ``folder/pictures``.

    Args:
      suite: its layout is that of the folder.
      prompts: all of them are complete.
      folder: of the results.
      samples: pictures per prompt.
      image_size: side in pixels to which pictures are resized, as those of a policy are.
      names: ``clip_score``, and rewards; at least one.
      options: of the rewards, with the folders of their models.
      sharder: the mesh.
      policy: for rewards that use one, or None.
      quiet: shows no progress bar.

    Returns:
      the records of ``picture_records`` with the scores.

    Raises:
      UserError: on all processes, if a name is unknown, a model or a picture cannot be read, or a
        reward fails.
    """
    if not names:
        raise UserError(f"scores must have a name, {CLIP_SCORE} or a reward; got none. Name one")
    reward_names = [name for name in names if name != CLIP_SCORE]
    for name in reward_names:
        rewards.require(name)
    models = RewardModels(options.models, sharder)
    needed = required_models(reward_names, options) | ({"clip"} if CLIP_SCORE in names else set())
    models.load(sorted(needed))
    context = RewardContext(policy, models, options)

    records = picture_records(suite, prompts, samples)
    scored: list[SuiteRecord] = []
    prompts_per_call = max(1, ROWS * jax.process_count() // samples)
    with tqdm(
        total=len(records),
        desc="score",
        file=sys.stderr,
        ascii=True,
        mininterval=1.0,
        unit="picture",
        disable=quiet or jax.process_index() > 0,
    ) as bar:
        for start in range(0, len(prompts), prompts_per_call):
            group = prompts[start : start + prompts_per_call]
            pictures = _read(suite, group, folder, samples, image_size)
            pairs = [prompt for prompt in group for _ in range(samples)]
            values = _score_rows(suite, pairs, pictures, names, context)
            for record, row in zip(records[len(scored) :], values, strict=False):
                scores = dict(zip(names, map(float, row), strict=True))
                scored.append(dataclasses.replace(record, scores=scores))
            bar.update(len(pairs))
    return tuple(scored)


def _read(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    folder: pathlib.Path,
    samples: int,
    image_size: int,
) -> UInt8[np.ndarray, "N H W 3"]:
    """The pictures of some prompts, on all processes."""

    def read() -> np.ndarray:
        pictures = [
            resize_image(picture, (image_size, image_size))
            for prompt in prompts
            for picture in read_pictures(folder / PICTURES, suite.layout, prompt, samples)
        ]
        return np.stack(pictures)

    # Hosts need not share a disk: the first one sends what it read, the others send nothing.
    pictures = on_first_process(read)
    if pictures is None:
        shape = (len(prompts) * samples, image_size, image_size, 3)
        pictures = np.zeros(shape, np.uint8)
    if jax.process_count() == 1:
        return pictures
    return all_gather(pictures)[: len(pictures)]


def _score_rows(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    pictures: UInt8[np.ndarray, "N H W 3"],
    names: Sequence[str],
    context: RewardContext,
) -> Float[np.ndarray, "N R"]:
    """Scores of pictures that all processes have; each computes equally many of them."""
    processes, process = jax.process_count(), jax.process_index()
    per_process = -(-len(prompts) // processes)
    rows = np.minimum(np.arange(per_process) + process * per_process, len(prompts) - 1)
    completions = [
        Completion(prompt_record(suite, prompts[row]), pixels=pictures[row]) for row in rows
    ]

    def score() -> np.ndarray:
        columns = {}
        if CLIP_SCORE in names:
            texts = [completion.record.prompt for completion in completions]
            cosines = context.reward_models.clip.cosine(pictures[rows], texts)
            columns[CLIP_SCORE] = 100 * np.maximum(cosines, 0)
        # Every reward has weight 1, since only the values of each are reported and not the total.
        weights = dict.fromkeys((name for name in names if name != CLIP_SCORE), 1.0)
        if weights:
            matrix = compute_rewards(completions, weights, context).matrix
            columns |= dict(zip(weights, matrix.T, strict=True))
        return np.stack([columns[name] for name in names], 1)

    values = on_all_processes(score)
    return values if processes == 1 else all_gather(values)[: len(prompts)]
