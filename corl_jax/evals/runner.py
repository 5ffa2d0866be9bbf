"""The whole evaluation of a policy. In: fixed held-out records; out: named numbers, the same at every call."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params, Record
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.evals.generation import draw_all, generation_numbers
from corl_jax.evals.statistics import Numbers
from corl_jax.evals.understanding import answer_all, understanding_numbers
from corl_jax.sampling.generate import PolicyFns

ANSWER_TOKENS = 32
"""Longest answer, in tokens."""


def evaluate(
    sampler: PolicyFns,
    params: Params,
    tokenizer: TextTokenizer,
    records: Sequence[Record],
    *,
    guidances: Sequence[float],
    seed: int,
    batch: int,
    answer_tokens: int = ANSWER_TOKENS,
    what: str = "evaluating",
    quiet: bool = False,
) -> Numbers:
    """Draws one picture per record at every guidance, and answers every question greedily and at temperature 1.

    Args:
      sampler: programs of the model.
      params: of the whole model.
      tokenizer: its text tokenizer.
      records: held out, in a fixed order.
      guidances: none may repeat.
      seed: of sampling.
      batch: records per compiled call; up to rounding it changes no number.
      answer_tokens: longest answer.
      what: label of the progress bar on stderr.
      quiet: no bar.

    Returns:
      ``t2i_strict@w=W`` and ``t2i_soft@w=W`` for every guidance and the names of ``understanding_numbers``, each with
      ``value``, ``stderr`` and ``n``.

    Raises:
      UserError: no records, or a guidance or batch out of range.
    """
    if not records:
        raise UserError("there is no record to evaluate on; expected at least one")
    if batch < 1:
        raise UserError(f"batch={batch} is no number of records per call; expected 1 or more")
    for weight in guidances:
        if not 0 <= weight < math.inf:
            raise UserError(
                f"guidance={weight} is out of range; expected a finite number of at least 0"
            )
    if len({f"{weight:g}" for weight in guidances}) != len(guidances):
        raise UserError(
            f"guidances {', '.join(f'{weight:g}' for weight in guidances)} repeat; name each once"
        )
    given = (sampler, params, tokenizer, records)
    total = len(records) * (len(guidances) + 2)
    numbers: Numbers = {}
    with tqdm(
        total=total,
        desc=what,
        file=sys.stderr,
        ascii=True,
        mininterval=1.0,
        unit="sample",
        disable=quiet,
    ) as bar:
        for weight in guidances:
            pictures = draw_all(*given, guidance=weight, seed=seed, batch=batch, advance=bar.update)
            numbers |= generation_numbers(pictures, weight)
        greedy, sampled = (
            answer_all(
                *given,
                temperature=temperature,
                seed=seed,
                batch=batch,
                length=answer_tokens,
                advance=bar.update,
            )
            for temperature in (0.0, 1.0)
        )
        return numbers | understanding_numbers(greedy, sampled)
