"""The report of a run: ``report.html``, one static page without scripts that needs no network.

It is made from the files of a work directory, finished or not. A part whose files are missing is
replaced by a sentence that says so.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax import __version__
from corl_jax.core.checks.paths import check_writable, user_path
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically
from corl_jax.core.private_text import reduce_private
from corl_jax.core.progress import format_seconds
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.remote_workdir import require_local_path
from corl_jax.report import charts, run_files, samples, tables
from corl_jax.report.completions_section import read_shown_steps
from corl_jax.report.provenance import LONGEST, provenance_facts
from corl_jax.report.rendering import render

REPORT_FILE = "report.html"
STAGE_TITLES = {
    "rl": "reinforcement learning",
    "sft": "supervised learning",
    "tokenizer": "image tokenizer",
}

Row = Mapping[str, float]
"""One line of ``metrics.jsonl``."""


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes ``report.html`` of a work directory.

    Args:
      workdir: a folder of this host.

    Returns:
      The path of the report.

    Raises:
      UserError: the folder is not a work directory, or a file in it cannot be read; an older report
        is then left as it is.
    """
    # A report is made from files of this host; a run in a bucket has to be copied first.
    require_local_path(workdir)
    folder = user_path(workdir, "the work directory")
    if not (folder / "config.json").is_file():
        raise UserError(
            f"a work directory must contain config.json; {str(workdir)!r} does not. "
            "Choose the folder of a run"
        )
    check_writable(folder / REPORT_FILE, "the report")
    write_atomically(folder / REPORT_FILE, render_page(folder))
    return folder / REPORT_FILE


def render_page(folder: pathlib.Path) -> str:
    """The page as HTML text.

    Raises:
      UserError: as ``write_report``.
    """
    # All files are read first, so that errors of reading name their file.
    config_file = run_files.read_config(folder)
    config, alarm_config = config_file.entries, run_files.read_alarm_config(config_file)
    rows = run_files.read_metrics(folder)
    evals = run_files.read_evals(folder)

    stage = config_file.text("stage")
    stage = STAGE_TITLES.get(stage, stage)
    return render(
        "run.html",
        title=f"corl_jax: {stage}",
        # The head.
        stage=stage,
        name=folder.resolve().name,
        version=__version__,
        written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        run_facts=provenance_facts(run_files.read_starts(folder), evals["run"])
        | _run_facts(folder, config, rows),
        # Measures.
        sides={side: evals.get(side, {}) for side in samples.SIDES},
        tiles=tables.make_tiles(evals),
        metric_groups=tables.group_metrics(evals),
        main_metrics=tables.main_metrics(evals),
        # Samples.
        gallery=samples.pair_galleries(run_files.read_galleries(folder)),
        answers=samples.pair_answers(run_files.read_transcripts(folder)),
        sheets=samples.read_sheets(folder),
        completions=read_shown_steps(folder),
        # The course of the run.
        alarms=_alarms(alarm_config, rows),
        charts=charts.draw_charts(rows),
        config_text=_within_pipeline(json.dumps(config, indent=2), folder),
    )


def _within_pipeline(text: str, folder: pathlib.Path) -> str:
    """``text`` with the folders of other stages of a pipeline by their names, and no other folders.

    A pipeline puts their full paths into configs, and a report goes to people who should not see
    where its author's files are.
    """
    return reduce_private(text.replace(f"{folder.resolve().parent}/", ""))


def _run_facts(
    folder: pathlib.Path, config: Mapping[str, Any], rows: Sequence[Row]
) -> dict[str, str]:
    """What the head says about the run, name to text."""
    # A metric may be absent from a row, and it is NaN where it was not finite.
    times = (row["time/step"] for row in rows if "time/step" in row)
    seconds = sum(time for time in times if math.isfinite(time))
    last_step = rows[-1]["step"] if rows else 0

    # The digest tells runs of different configs apart at a glance.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    init_from = _within_pipeline(config["init_from"], folder) or "scratch"
    return {
        "config": f"sha256 {digest[:16]}, seed {config['seed']}, starts from {init_from}",
        "steps": f"{last_step} of {config['steps']}",
        "in steps": format_seconds(min(max(seconds, 0), LONGEST)),
    }


def _alarms(alarm_config: AlarmConfig, rows: Sequence[Row]) -> list[str]:
    """The alarms that the metrics of the run raise, step by step."""
    # The same alarms as in training, since they depend on the rows alone.
    alarm = Alarm(alarm_config)
    return [f"step {row['step']}: {text}" for row in rows for text in alarm.update(row)]
