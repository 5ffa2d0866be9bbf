"""The embedded world as a suite, in one process: a record for each picture and each answer.

The metrics are those of ``evals.runner.evaluate``, and how much the pictures differ.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from corl_jax.core.types import Completion, Record
from corl_jax.data.records import image_of
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.generation import (
    SOFT_REWARD,
    STRICT_REWARD,
    generate_all,
    generation_metrics,
)
from corl_jax.evals.runner import check_evaluation
from corl_jax.evals.statistics import Estimates
from corl_jax.evals.understanding import answer_all, grade_answers, understanding_metrics
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.image_codec import ImageCodec
from corl_jax.suites.duplicates import duplicate_estimates, find_duplicates, hash_pictures
from corl_jax.suites.results import PICTURES, SuiteRecord, write_results
from corl_jax.suites.sample_quality import code_estimates, code_usage, shrink_pictures
from corl_jax.suites.settings import claim_folder

SETTINGS = ("suite", "policy", "identity", "dtype", "n", "seed")
"""Of ``about``: what an earlier start in the same folder must have had too."""


def run_world_suite(
    policy: EvalPolicy,
    records: Sequence[Record],
    guidance_scales: Sequence[float],
    sampling: EvalSampling,
    folder: pathlib.Path,
    about: Mapping[str, Any],
    codec: ImageCodec,
) -> Estimates:
    """Draws and answers all records and writes a folder of results.

    Args:
      policy: what is evaluated.
      records: held out from training, in a fixed order.
      guidance_scales: one picture per record at each.
      sampling: seed, batch size and length of answers.
      folder: of the results.
      about: policy, suite and versions.
      codec: reads the pictures as image tokens, whose variety is told.

    Raises:
      UserError: as ``evals.runner.evaluate`` and ``claim_folder``.
    """
    check_evaluation(records, guidance_scales, sampling)
    # Without plans there is no such setting, as in folders of older versions.
    names = (*SETTINGS, "plan") if policy.plans is not None else SETTINGS
    settings = {name: about[name] for name in names} | {"guidance_scales": [*guidance_scales]}
    claim_folder(folder, settings)

    metrics: Estimates = {}
    lines: list[SuiteRecord] = []
    total = len(records) * (len(guidance_scales) + 2)
    with tqdm(total=total, desc="shapes", ascii=True, mininterval=1.0, unit="sample") as bar:
        for scale in guidance_scales:
            images = generate_all(policy, records, scale, sampling, on_batch=bar.update)
            metrics |= generation_metrics(images, scale) | _variety(images, scale, codec)
            lines += _draw_records(images, scale)
            _write_pictures(folder, images, scale)

        greedy = answer_all(policy, records, 0.0, sampling, on_batch=bar.update)
        sampled = answer_all(policy, records, 1.0, sampling, on_batch=bar.update)
        metrics |= understanding_metrics(greedy, sampled)
        lines += _answer_records(greedy, "qa_greedy")
        lines += _answer_records(sampled, "qa_sampled")

    for record in records:
        _save(folder / _question_picture(record), image_of(record))
    data = {"data": f"{about['n']} held-out records of seed {about['seed']}"}
    write_results(folder, {**about, **data}, metrics, lines)
    return metrics


def _variety(images: Sequence[Completion], scale: float, codec: ImageCodec) -> Estimates:
    """Whether captions get pictures of their own, and how much of the codebook these use."""
    pictures = [np.asarray(completion.pixels) for completion in images]
    ids = [completion.record.id for completion in images]
    duplicates = find_duplicates(hash_pictures(pictures), shrink_pictures(pictures), ids)
    estimates = {
        name: value
        for name, value in duplicate_estimates(duplicates, ids).items()
        if name.endswith("_of_other_prompts")
    }
    usage = code_usage(codec.encode(pictures), codec.cfg.image_vocab_size)
    estimates |= code_estimates(usage, len(pictures))
    return {f"{name}@w={scale:g}": value for name, value in estimates.items()}


def _draw_records(images: Sequence[Completion], scale: float) -> Iterator[SuiteRecord]:
    rewards = compute_rewards(images, {STRICT_REWARD: 1.0, SOFT_REWARD: 0.0}, RewardContext())
    columns = dict(zip(rewards.names, rewards.matrix.T, strict=True))
    for place, completion in enumerate(images):
        record = completion.record
        yield SuiteRecord(
            id=f"{record.id}/draw@w={scale:g}",
            cluster=record.id,
            category="",
            prompt=record.prompt,
            reference="",
            output="",
            picture=_drawn_picture(record, scale),
            scores={
                f"t2i_strict@w={scale:g}": float(columns[STRICT_REWARD][place]),
                f"t2i_soft@w={scale:g}": float(columns[SOFT_REWARD][place]),
            },
        )


def _answer_records(answers: Sequence[Completion], score: str) -> Iterator[SuiteRecord]:
    correct, formed = grade_answers(answers)
    for completion, is_correct, is_formed in zip(answers, correct, formed, strict=True):
        record = completion.record
        yield SuiteRecord(
            id=f"{record.id}/{score}",
            cluster=record.id,
            category=record.kind,
            prompt=record.question,
            reference=record.answer,
            output=str(completion.text),
            picture=_question_picture(record),
            scores={score: float(is_correct), f"{score}_format": float(is_formed)},
        )


def _drawn_picture(record: Record, scale: float) -> str:
    name = record.id.replace("/", "_")
    return f"{PICTURES}/{name}_w{scale:g}.png"


def _question_picture(record: Record) -> str:
    name = record.id.replace("/", "_")
    return f"{PICTURES}/{name}.png"


def _write_pictures(folder: pathlib.Path, images: Sequence[Completion], scale: float) -> None:
    for completion in images:
        assert completion.pixels is not None
        _save(folder / _drawn_picture(completion.record, scale), completion.pixels)


def _save(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, "PNG")
