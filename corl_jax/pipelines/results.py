"""Measures the policies of a pipeline and writes one table. In: policies by name; out: results.json, results.md."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corl_jax.core.files import write_json, write_whole
from corl_jax.core.provenance import machine, versions
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.shapes import builder
from corl_jax.evals.runner import evaluate
from corl_jax.evals.statistics import Number, percent
from corl_jax.sampling.policy import Policy
from corl_jax.stages.config import EvalSettings

COLUMNS = ("qa_greedy", "qa_greedy_mc", "qa_greedy_oe", "qa_sampled_strict", "qa_format")
"""Of answers; in front of them stands a column for each guidance that pictures are drawn with."""

Results = dict[str, dict[str, Any]]
"""By policy ``made`` (what tells it from any other), ``evals`` (how it was measured) and ``numbers``."""


def measure(
    home: Path, policies: Mapping[str, str], made: Mapping[str, str], settings: EvalSettings
) -> Results:
    """Measures on held-out records of the embedded world what ``results.json`` does not hold already.

    Args:
      home: folder of the pipeline; ``results.json`` is written after every policy.
      policies: by name, as ``Policy.load`` takes them.
      made: by name, what tells a policy from any other.
      settings: ``n=0`` measures nothing.
    """
    path = home / "results.json"
    before = json.loads(path.read_text())["policies"] if path.exists() else {}
    how = json.loads(json.dumps(dataclasses.asdict(settings)))
    results: Results = {}
    for name, policy in policies.items():
        wanted = {"made": made[name], "evals": how}
        known = before.get(name, {})
        if {key: known.get(key) for key in wanted} == wanted:
            results[name] = known
        else:
            results[name] = wanted | {"numbers": _numbers(name, policy, settings)}
        write_json(path, {"policies": before | results, "about": _about()})
    write_json(path, {"policies": results, "about": _about()})
    return results


def _numbers(name: str, source: str, settings: EvalSettings) -> dict[str, Number]:
    if not settings.n:
        return {}
    policy = Policy.load(source)
    return evaluate(
        policy.sampler,
        policy.params,
        policy.tokenizer,
        held_out_records(builder.source(None, "test"), settings.n, settings.seed),
        guidances=settings.guidances,
        seed=settings.seed,
        batch=settings.batch,
        what=name,
    )


def _about() -> dict[str, Any]:
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions()}


def table(results: Results) -> str:
    """Results as Markdown, in per cent with one standard error."""
    drawn = dict.fromkeys(
        column
        for one in results.values()
        for column in one["numbers"]
        if column.startswith("t2i_strict")
    )
    columns = [*drawn, *COLUMNS] if drawn else []
    lines = [
        f"| policy | {' | '.join(f'`{column}`' for column in columns)} |"
        if columns
        else "| policy |"
    ]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, one in results.items():
        numbers: Mapping[str, Number] = one["numbers"]
        cells = [
            percent(numbers[column]["value"], numbers[column]["stderr"])
            if column in numbers
            else ""
            for column in columns
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def write_table(home: Path, results: Results) -> None:
    """Writes and prints the table."""
    text = table(results)
    some = next(iter(results.values()))["evals"]["n"]
    under = (
        f"Per cent of {some} held-out records; start: what the first stage began from."
        if some
        else "Not measured."
    )
    write_whole(home / "results.md", f"{text}\n\n{under}\n")
    print(text, flush=True)
