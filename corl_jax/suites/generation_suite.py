"""A generation suite from its prompts to a folder of results: drawn, scored, judged, described."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from corl_jax.core.processes.agreement import on_first_process
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.evals.config import EvalPolicy
from corl_jax.evals.statistics import Estimate, Estimates
from corl_jax.rewards.config import RewardOptions
from corl_jax.sampling.image_codec import ImageCodec
from corl_jax.sampling.policy import Policy
from corl_jax.sampling.policy_handle import RewardPolicyHandle
from corl_jax.suites.duplicates import duplicate_estimates, find_duplicates, hash_pictures
from corl_jax.suites.generation.drawing import draw_suite
from corl_jax.suites.generation.picture_files import read_pictures
from corl_jax.suites.generation.picture_stream import DrawSettings
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.scoring import score_pictures
from corl_jax.suites.generation.suite import GenerationSuite
from corl_jax.suites.judging.detector_judge import detector_figures, judge_folder
from corl_jax.suites.judging.open_judge import open_owlv2_judge
from corl_jax.suites.results import PICTURES, SuiteRecord, write_results
from corl_jax.suites.sample_quality import (
    code_estimates,
    code_usage,
    diversity,
    diversity_estimate,
    shrink_pictures,
)
from corl_jax.suites.scoring.aggregates import mean_estimate

DIVERSITY = "diversity"
"""Score of a picture: its mean distance to the others of its prompt."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What is computed of the pictures.

    Attributes:
      names: rewards, and ``clip_score``.
      options: of the rewards, with their models.
      detector: folder of an OWLv2 that judges GenEval; "" for none.
      clip: of the judge, which names colours.
    """

    names: tuple[str, ...]
    options: RewardOptions
    detector: str = ""
    clip: str = ""


def run_generation_suite(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    policy: Policy,
    settings: DrawSettings,
    scoring: Scoring,
    folder: pathlib.Path,
    about: Mapping[str, Any],
) -> Estimates:
    """Draws all prompts, computes scores and writes the folder of results.

    Args:
      suite: of the registry.
      prompts: from ``suite.read``.
      policy: what draws.
      settings: how it draws.
      scoring: what is computed of the pictures.
      folder: of the results; an earlier start of the same command goes on in it.
      about: policy and versions.

    Returns:
      the metrics, on the first process.

    Raises:
      UserError: as ``draw_suite``, ``score_pictures`` and ``judge_folder``.
    """
    identity = {name: about[name] for name in ("policy", "identity", "dtype")}
    positions = policy.cfg.decoder.max_length
    with policy.on_devices():
        drawer = EvalPolicy(policy.fns, policy.params, policy.tokenizer)
        records = draw_suite(drawer, positions, suite, prompts, folder, settings, identity)

    sharder = Sharder(make_mesh({"data": -1})) if policy.sharder is None else policy.sharder
    if scoring.names:
        handle = RewardPolicyHandle(policy.fns, policy.tokenizer, policy.params, sharder=sharder)
        args = (suite, prompts, folder, settings.samples, policy.cfg.image_size)
        scored = score_pictures(*args, scoring.names, scoring.options, sharder, handle)
        records = _merge(records, scored)
    metrics: Estimates = {}
    details = dict(about) | {"suite": suite.name, **dataclasses.asdict(settings)}
    texts = repr([(prompt.id, prompt.prompt) for prompt in prompts])
    details["data"] = hashlib.sha256(texts.encode()).hexdigest()[:16]
    if scoring.detector:
        judge, about_judge = open_owlv2_judge(scoring.detector, scoring.clip, sharder)
        judged = judge_folder(judge, prompts, folder, settings.samples, about_judge)
        metrics |= detector_figures(judged)
        records = _merge(records, judged)
        details["judge"] = about_judge

    # The codec runs on one device of one process, which has all parameters only where it is alone.
    codec = ImageCodec.of_policy(policy.cfg, policy.params) if jax.process_count() == 1 else None

    def write() -> Estimates:
        described, quality = describe_samples(
            suite, prompts, folder, settings.samples, records, codec
        )
        for name in dict.fromkeys(name for record in described for name in record.scores):
            value, stderr = mean_estimate([r for r in described if name in r.scores], name)
            metrics.setdefault(name, Estimate(value=value, stderr=stderr, n=len(described)))
        metrics.update(quality)
        write_results(folder, details, metrics, described)
        return metrics

    return on_first_process(write) or {}


def _merge(
    records: Sequence[SuiteRecord], others: Sequence[SuiteRecord]
) -> tuple[SuiteRecord, ...]:
    """Records with the scores of both."""
    scores = {record.id: record.scores for record in others}
    return tuple(
        dataclasses.replace(record, scores={**record.scores, **scores[record.id]})
        for record in records
    )


def describe_samples(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    folder: pathlib.Path,
    samples: int,
    records: Sequence[SuiteRecord],
    codec: ImageCodec | None,
) -> tuple[tuple[SuiteRecord, ...], Estimates]:
    """Whether pictures differ: a score of each, and estimates of the whole folder.

    Args:
      records: of the pictures, prompt by prompt.
      codec: reads the pictures as image tokens, whose variety is told; None for none.

    Returns:
      records with the score ``diversity`` where a prompt has several, and the estimates of
      ``sample_quality`` and ``duplicates``.
    """
    small, digests, tokens = [], [], []
    for prompt in prompts:
        pictures = read_pictures(folder / PICTURES, suite.layout, prompt, samples)
        small.append(shrink_pictures(pictures))
        digests += hash_pictures(pictures)
        if codec is not None:
            tokens.append(codec.encode(list(pictures)))
    clusters = [record.cluster for record in records]
    all_small = np.concatenate(small)
    distances = diversity(all_small, clusters)
    described = tuple(
        record
        if np.isnan(distance)
        else dataclasses.replace(record, scores={**record.scores, DIVERSITY: float(distance)})
        for record, distance in zip(records, distances, strict=True)
    )
    duplicates = find_duplicates(digests, all_small, clusters)
    estimates = diversity_estimate(distances, clusters) | duplicate_estimates(duplicates, clusters)
    if codec is not None:
        usage = code_usage(np.concatenate(tokens), codec.cfg.image_vocab_size)
        estimates |= code_estimates(usage, len(records))
    return described, estimates
