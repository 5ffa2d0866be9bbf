"""The evaluation of a policy: fixed held-out records in, the same metrics at every call out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.progress import ProgressBar
from corl_jax.core.types import Record
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.generation import generate_all, generation_metrics
from corl_jax.evals.statistics import Estimates
from corl_jax.evals.understanding import answer_all, understanding_metrics


def evaluate(
    policy: EvalPolicy,
    records: Sequence[Record],
    guidance_scales: Sequence[float],
    sampling: EvalSampling,
    *,
    label: str = "evaluating",
    quiet: bool = False,
) -> Estimates:
    """Measures text-to-image at every guidance scale, and answers at temperatures 0 and 1.

    Args:
      policy: what is evaluated.
      records: held out from training, in a fixed order.
      guidance_scales: one image per record is generated at each; none may repeat.
      sampling: seed, batch size and length of answers.
      label: of the progress bar on stderr.
      quiet: shows no progress bar.

    Returns:
      ``t2i_strict@w=W`` and ``t2i_soft@w=W`` for every guidance scale, and the names of
      ``understanding_metrics``, each with ``value``, ``stderr`` and ``n``.

    Raises:
      UserError: there are no records, or a guidance scale or the batch size is out of range.
    """
    check_evaluation(records, guidance_scales, sampling)

    # Every record is sampled once per guidance scale, and answered greedily and at temperature 1.
    total = len(records) * (len(guidance_scales) + 2)
    metrics: Estimates = {}
    with ProgressBar(
        total,
        label=label,
        unit="sample",
        quiet=quiet,
    ) as bar:
        bar.show_status("compiling")
        # The same seed everywhere: scales and temperatures are compared on common random numbers.
        for scale in guidance_scales:
            images = generate_all(policy, records, scale, sampling, on_batch=bar.update)
            metrics |= generation_metrics(images, scale)

        greedy = answer_all(policy, records, 0.0, sampling, on_batch=bar.update)
        sampled = answer_all(policy, records, 1.0, sampling, on_batch=bar.update)
        return metrics | understanding_metrics(greedy, sampled)


def check_evaluation(
    records: Sequence[Record], guidance_scales: Sequence[float], sampling: EvalSampling
) -> None:
    """Raises UserError for arguments that cannot be evaluated."""
    if not records:
        raise UserError(
            "an evaluation must have at least one record; got none. Raise the number of records"
        )

    if sampling.batch_size < 1:
        raise UserError(
            f"the batch size of an evaluation must be at least 1; got {sampling.batch_size}. "
            "It is the number of records per compiled call, for example 64"
        )

    # NaN fails the comparison, too.
    for scale in guidance_scales:
        if not 0 <= scale < math.inf:
            raise UserError(
                f"a guidance scale must be a finite number of at least 0; got {scale}. "
                "Without guidance it is 1"
            )

    # Metrics are named after the scale in this format, so the names have to differ.
    names = [f"{scale:g}" for scale in guidance_scales]
    if len(set(names)) != len(names):
        raise UserError(
            f"guidance scales must differ from each other; got {', '.join(names)}. Name each once"
        )
