"""Visual question answering on held-out records: how many answers are correct and well-formed."""

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
from corl_jax.tasks.visual_qa import VisualQA

CORRECT_REWARD, FORMAT_REWARD = "accuracy", "format"
"""Rewards that measure an answer."""


def answer_all(
    policy: EvalPolicy,
    records: Sequence[Record],
    temperature: float,
    sampling: EvalSampling,
    rows: Sequence[int] | None = None,
    on_batch: Callable[[int], object] = lambda records_done: None,
) -> list[Completion]:
    """Samples one answer to the question of every record.

    Args:
      policy: what answers.
      records: ``N`` records.
      temperature: 0 is greedy.
      sampling: seed, batch size and length of answers.
      rows: places of the records that are asked about; None for all of them. The calls have one
        shape whichever these are.
      on_batch: called after every compiled call with the number of records in it.

    Returns:
      one completion for each of them, in their order.
    """
    # All prompts are padded to one width, so that every call has the same shape.
    cfg = policy.fns.cfg
    task = VisualQA(policy.tokenizer, cfg.image_tokens, cfg.image_size)
    prompt_batch = task.make_prompts(records)
    sampling_params = policy.fns.sampling_params("text", temperature=temperature)

    completions: list[Completion] = []
    places = np.arange(len(records)) if rows is None else np.asarray(rows)
    size = sampling.rows_per_call(len(records))
    for questions, valid in batch_rows(len(places), size):
        # The stream name is part of the keys: renaming it would change every sample.
        keys = prompt_keys(sampling.seed, "eval/answer", places[questions], 1)
        prompts = take(prompt_batch.prompts, places[questions])
        rollout = policy.fns.sample_text(
            policy.params, prompts, keys, sampling_params, sampling.answer_tokens
        )

        # The last call is filled up with copies of the last prompt; only `valid` rows count.
        rollout = jax.tree.map(lambda leaf, valid=valid: leaf[:valid], to_host(rollout))
        batch_records = tuple(prompt_batch.records[place] for place in places[questions[:valid]])
        completions += task.to_completions(
            PromptBatch(prompt_batch.prompts, batch_records), rollout
        )
        on_batch(valid)
    return completions


def grade_answers(answers: Sequence[Completion]) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``N`` answers are correct, and which are well-formed: two bool arrays ``[N]``."""
    # Both rewards are 0 or 1, as float32.
    rewards = compute_rewards(answers, {CORRECT_REWARD: 1.0, FORMAT_REWARD: 0.0}, RewardContext())
    columns = dict(zip(rewards.names, rewards.matrix.T > 0.5, strict=True))
    return columns[CORRECT_REWARD], columns[FORMAT_REWARD]


def understanding_metrics(greedy: Sequence[Completion], sampled: Sequence[Completion]) -> Estimates:
    """Metrics of answers to the same questions, greedy and sampled at temperature 1.

    Returns:
      ``qa_greedy`` and ``qa_sampled``: share of correct answers. ``qa_sampled_strict``: correct and
      well-formed. ``qa_format`` (sampled) and ``qa_greedy_format``: well-formed.
      ``qa_truncated`` (sampled) and ``qa_greedy_truncated``: cut at the limit of their length.
      ``qa_greedy_mc`` and ``qa_greedy_oe``: greedy answers to multiple-choice and to open-ended
      questions, where there are any, and the same of ``qa_sampled_strict``. ``qa_greedy/KIND``:
      greedy answers to one kind of question.
    """
    greedy_correct, greedy_formed = grade_answers(greedy)
    sampled_correct, sampled_formed = grade_answers(sampled)

    # Over all questions.
    metrics = {
        "qa_greedy": estimate(greedy_correct),
        "qa_greedy_format": estimate(greedy_formed),
        "qa_sampled": estimate(sampled_correct),
        "qa_sampled_strict": estimate(sampled_correct & sampled_formed),
        "qa_format": estimate(sampled_formed),
        "qa_truncated": estimate([completion.is_truncated for completion in sampled]),
        "qa_greedy_truncated": estimate([completion.is_truncated for completion in greedy]),
    }

    # Answers by type of question (multiple choice or open-ended), and greedy ones by kind (count,
    # colour, ...). A record without a kind is in no break-down by kind.
    qa_types = np.array([completion.record.qa_type for completion in greedy])
    by_type = {
        f"{name}_{qa_type.lower()}": estimate(values[qa_types == qa_type])
        for name, values in (
            ("qa_greedy", greedy_correct),
            ("qa_sampled_strict", sampled_correct & sampled_formed),
        )
        for qa_type in sorted(set(qa_types))
    }

    kinds = np.array([completion.record.kind for completion in greedy])
    by_kind = {
        f"qa_greedy/{kind}": estimate(greedy_correct[kinds == kind])
        for kind in sorted(set(kinds))
        if kind
    }
    return metrics | by_type | by_kind
