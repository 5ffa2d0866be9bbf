"""GenEval's figures of verdicts: a share for each tag, and their mean (geneval, ``summary_scores.py``)."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from corl_jax.evals.statistics import Estimates, estimate
from corl_jax.suites.generation.geneval_prompts import TAGS


def summarize(verdicts: Sequence[tuple[str, str, bool]], name: str = "geneval") -> Estimates:
    """GenEval's figures.

    Args:
      verdicts: tag, prompt id and verdict of every picture.
      name: of the figure.

    Returns:
      ``NAME/TAG``, the share of right pictures, and ``NAME``, the mean of the tags that there
      are. Standard errors are those of means over prompts, whose pictures depend on each other;
      ``n`` counts prompts.

    Raises:
      ValueError: there are no verdicts.
    """
    metrics: Estimates = {}
    for tag in TAGS:
        by_prompt: dict[str, list[bool]] = collections.defaultdict(list)
        for verdict_tag, prompt_id, is_correct in verdicts:
            if verdict_tag == tag:
                by_prompt[prompt_id].append(is_correct)
        if by_prompt:
            shares = [float(np.mean(group)) for group in by_prompt.values()]
            pictures = [is_correct for group in by_prompt.values() for is_correct in group]
            metrics[f"{name}/{tag}"] = estimate(shares) | {"value": float(np.mean(pictures))}

    if not metrics:
        raise ValueError("verdicts must not be empty, since an empty sequence has no mean")
    parts = list(metrics.values())
    errors = [part["stderr"] for part in parts if part["stderr"] is not None]
    # One prompt of a tag alone says nothing about the spread.
    stderr = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    overall = float(np.mean([part["value"] for part in parts]))
    number = sum(part["n"] for part in parts)
    return metrics | {name: {"value": overall, "stderr": stderr, "n": number}}
