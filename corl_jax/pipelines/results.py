"""Evaluates the policies of a pipeline and writes a table: ``results.json`` and ``results.md``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import write_atomically, write_json
from corl_jax.core.provenance import machine, versions
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.shapes import builder
from corl_jax.evals.config import EvalPolicy, EvalSampling
from corl_jax.evals.runner import evaluate
from corl_jax.evals.statistics import Estimates, format_percent, read_estimates
from corl_jax.sampling.policy import Policy
from corl_jax.stages.config import EvalsConfig

QA_COLUMNS = ("qa_greedy", "qa_greedy_mc", "qa_greedy_oe", "qa_sampled_strict", "qa_format")
"""Columns of the table for answers; before them there is one per guidance scale of images."""

Results = dict[str, dict[str, Any]]
"""By policy: ``made`` (its id), ``evals`` (how it was evaluated) and ``numbers`` (the metrics)."""


def evaluate_policies(
    workdir: Path, policies: Mapping[str, str], policy_ids: Mapping[str, str], config: EvalsConfig
) -> Results:
    """Evaluates the policies that ``results.json`` does not contain yet.

    The records are held-out ones of the embedded world.

    Args:
      workdir: of the pipeline; ``results.json`` in it is written after every evaluation.
      policies: by name, as ``Policy.load`` takes them.
      policy_ids: by name, a text that differs between different policies.
      config: with 0 records nothing is evaluated.
    """
    # Entries of an earlier call, which may have been interrupted or had another config.
    path = workdir / "results.json"
    saved = _read_results(path) if path.exists() else {}

    results: Results = {}
    for name, policy in policies.items():
        # An entry counts only if it is about the same policy, evaluated in the same way.
        key = {"made": policy_ids[name], "evals": _evals_entry(config)}
        entry = saved.get(name, {})
        if {field: entry.get(field) for field in key} == key:
            results[name] = entry
        else:
            results[name] = key | {"numbers": _evaluate_policy(name, policy, config)}
            # Keep the entries of policies that are still to come, in case this is interrupted.
            write_json(path, {"policies": saved | results, "about": _about()})

    # Entries of policies that are no longer in the pipeline are dropped at the end. The file of a
    # pipeline that was finished before stays as it is.
    if results != saved:
        write_json(path, {"policies": results, "about": _about()})
    return results


def _read_results(path: Path) -> Results:
    """The entries of ``results.json``, whose numbers are checked."""
    policies = JsonObject.read(path, advice="remove the file").block("policies")
    results: Results = {}
    for name in policies.entries:
        entry = policies.block(name)
        numbers = read_estimates(entry.block("numbers"))
        results[name] = {**entry.entries, "numbers": numbers}
    return results


def _evals_entry(config: EvalsConfig) -> dict[str, Any]:
    """How policies are evaluated, as it is stored in ``results.json``."""
    # These names are those of older files, whose entries would be evaluated again under new ones.
    return {
        "n": config.num_records,
        "guidances": list(config.guidance_scales),
        "seed": config.seed,
        "batch": config.batch_size,
    }


def _evaluate_policy(name: str, source: str, config: EvalsConfig) -> Estimates:
    if not config.num_records:
        return {}
    policy = Policy.load(source)
    return evaluate(
        EvalPolicy(policy.fns, policy.params, policy.tokenizer),
        held_out_records(builder.source(None, "test"), config.num_records, config.seed),
        config.guidance_scales,
        EvalSampling(config.seed, config.batch_size),
        label=name,
    )


def _about() -> dict[str, Any]:
    return {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "versions": versions()}


def render_table(results: Results) -> str:
    """The results as Markdown, in per cent with one standard error."""
    # One column per guidance scale that any policy was evaluated at, in order of appearance.
    image_columns = dict.fromkeys(
        column
        for entry in results.values()
        for column in entry["numbers"]
        if column.startswith("t2i_strict")
    )
    columns = [*image_columns, *QA_COLUMNS] if image_columns else []

    head = [f"`{column}`" for column in columns]

    lines = [f"| {' | '.join(['policy', *head])} |", "|---" * (len(columns) + 1) + "|"]
    for name, entry in results.items():
        # A metric that this policy was not measured by leaves an empty cell.
        metrics: Estimates = entry["numbers"]
        cells = [
            format_percent(metrics[column]["value"], metrics[column]["stderr"])
            if column in metrics
            else ""
            for column in columns
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def write_table(workdir: Path, results: Results) -> None:
    """Writes the table to ``results.md`` and prints it."""
    table = render_table(results)
    records = next(iter(results.values()))["evals"]["n"]
    note = "Not measured."
    if records:
        note = f"Per cent of {records} held-out records; start: what the first stage began from."
    path, text = workdir / "results.md", f"{table}\n\n{note}\n"
    if not path.exists() or path.read_bytes() != text.encode("utf-8"):
        write_atomically(path, text)
    print(table, flush=True)
