"""Answers to held-out questions: right, well-formed, both; overall and by kind of question.

In: sampler, params, tokenizer, records. Out: completions, and named numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from corl_jax.core.sharding import to_host
from corl_jax.core.types import Completion, Params, PromptBatch, Record
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.evals.statistics import Numbers, number
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.sampling.generate import PolicyFns
from corl_jax.tasks.visual_qa import VisualQA

RIGHT, FORM = "accuracy", "format"
"""Rewards that answers are measured by."""


def answer_all(
    sampler: PolicyFns,
    params: Params,
    tokenizer: TextTokenizer,
    records: Sequence[Record],
    *,
    temperature: float,
    seed: int,
    batch: int,
    length: int,
    advance: Callable[[int], object] = lambda done: None,
) -> list[Completion]:
    """One answer of at most ``length`` tokens per record; other arguments as in ``generation.draw_all``."""
    task = VisualQA(tokenizer, sampler.cfg.image_tokens, sampler.cfg.vision.image_size)
    asked = task.ask(records)
    sampling = sampler.sampling("text", temperature=temperature)
    out: list[Completion] = []
    for rows, real in batch_rows(len(records), batch_size(len(records), batch)):
        keys = prompt_keys(seed, "eval/answer", rows, 1)
        rollout = sampler.sample_text(params, take(asked.prompts, rows), keys, sampling, length)
        some = PromptBatch(asked.prompts, tuple(asked.records[row] for row in rows[:real]))
        out += task.read_back(
            some, jax.tree.map(lambda leaf, real=real: leaf[:real], to_host(rollout))
        )
        advance(real)
    return out


def verdicts(answers: Sequence[Completion]) -> tuple[np.ndarray, np.ndarray]:
    """Which answers are right and which are well-formed: two bool arrays ``[N]``."""
    scores = compute_rewards(answers, {RIGHT: 1.0, FORM: 0.0}, RewardContext())
    columns = dict(zip(scores.names, scores.matrix.T > 0.5, strict=True))
    return columns[RIGHT], columns[FORM]


def understanding_numbers(greedy: Sequence[Completion], sampled: Sequence[Completion]) -> Numbers:
    """The numbers of both ways of answering.

    ``qa_greedy`` and ``qa_sampled``: share of right answers. ``qa_sampled_strict``: right and well-formed.
    ``qa_format`` (sampled) and ``qa_greedy_format``: well-formed. ``qa_greedy/KIND``: greedy, of one kind of question.
    ``qa_greedy_mc`` and ``qa_greedy_oe``: greedy, of multiple choice and of open questions, where there are any.
    """
    greedy_right, greedy_formed = verdicts(greedy)
    sampled_right, sampled_formed = verdicts(sampled)
    numbers = {
        "qa_greedy": number(greedy_right),
        "qa_greedy_format": number(greedy_formed),
        "qa_sampled": number(sampled_right),
        "qa_sampled_strict": number(sampled_right & sampled_formed),
        "qa_format": number(sampled_formed),
    }
    kinds = np.array([completion.record.kind for completion in greedy])
    by_kind = {
        f"qa_greedy/{kind}": number(greedy_right[kinds == kind])
        for kind in sorted(set(kinds))
        if kind
    }
    types = np.array([completion.record.qa_type for completion in greedy])
    by_type = {
        f"qa_greedy_{type_.lower()}": number(greedy_right[types == type_])
        for type_ in sorted(set(types))
    }
    return numbers | by_type | by_kind
