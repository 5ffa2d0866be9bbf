"""What a run leaves at its end: its page, its provenance brought up to date, and one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.progress import format_seconds
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.run_history import RunHistory
from corl_jax.engine.workdir import Workdir
from corl_jax.engine.writers import read_rows
from corl_jax.report.metric_text import format_number, unit_of
from corl_jax.report.page import REPORT_FILE, write_report

FEW_STEPS = 10
"""So many steps are averaged at either end of a run."""

MAIN_METRICS = (
    "t2i_strict@w={scale}",
    "qa_sampled_strict",
    "reward/image@w={scale}",
    "reward/text",
)
"""Of an evaluation, in the last line; ``{scale}`` is the guidance scale of training."""


def leave_report(
    workdir: Workdir, history: RunHistory, steps: int, metrics: Sequence[str], name: str
) -> None:
    """Writes the page of a run that has ended or was stopped, and says so; on the first process.

    Args:
      steps: of the whole run.
      metrics: columns of ``metrics.jsonl`` for the line, where there is no evaluation.
      name: of the work directory, as it was given.

    Raises:
      UserError: the page cannot be written, or a file that it is made from is damaged.
    """
    done = max(saved_steps(workdir.checkpoints), default=0)
    history.update(done)
    write_report(workdir.path)
    workdir.push()

    progress = f"{done} steps" if done >= steps else f"stopped at step {done} of {steps}"
    parts = [f"{progress}, {format_seconds(history.seconds)}"]
    parts += [text for text in (_result_text(workdir.path, metrics),) if text]
    print(f"{'; '.join(parts)}; report: {name}/{REPORT_FILE}", file=sys.stderr, flush=True)


def _result_text(folder: Path, metrics: Sequence[str]) -> str:
    """What came of the run: the main metrics before and after, or its first and last rows."""
    path = folder / "eval.json"
    if path.exists():
        entries = JsonObject.read(path)
        if {"before", "after", "guidance"} <= entries.entries.keys():
            return ", ".join(_evaluation_texts(entries))
    rows = [row for _, row in read_rows(folder / "metrics.jsonl") if row["step"] > 0]
    few = min(FEW_STEPS, max(len(rows) // 2, 1))
    texts = []
    for name in metrics:
        values = [row[name] for row in rows if name in row]
        if values:
            first, last = np.mean(values[:few]), np.mean(values[-few:])
            texts.append(f"{name} {first:.3g} -> {last:.3g}")
    note = f" (means of {few} steps)" if few > 1 and texts else ""
    return ", ".join(texts) + note


def _evaluation_texts(entries: JsonObject) -> list[str]:
    scale = f"{entries.number('guidance'):g}"
    before, after = entries.block("before"), entries.block("after")
    texts = []
    for pattern in MAIN_METRICS:
        name = pattern.format(scale=scale)
        if name in before.entries and name in after.entries:
            start, end = (
                format_number(name, side.block(name).number("value")) for side in (before, after)
            )
            texts.append(f"{name} {start} -> {end}{unit_of(name)}")
    return texts
