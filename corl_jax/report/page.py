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
from html import escape
from typing import Any

from corl_jax import __version__
from corl_jax.core.checks.paths import check_writable, user_path
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.remote_workdir import require_local_path
from corl_jax.report import charts, run_files, samples, tables
from corl_jax.report.samples import placeholder
from corl_jax.report.style import CSS

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
    """The page as HTML text."""
    # All files are read first, so that errors of reading name their file.
    config_file = run_files.read_config(folder)
    config, alarm_config = config_file.entries, run_files.read_alarm_config(config_file)
    rows = run_files.read_metrics(folder)
    evals = run_files.read_evals(folder)
    galleries = run_files.read_galleries(folder)
    transcripts = run_files.read_transcripts(folder)

    # Both sides of a gallery must have the same prompts, and pictures must be base64.
    try:
        sections = [
            _head(folder, config, rows, evals["run"]),
            tables.render_tiles(evals) if {"before", "after"} <= evals.keys() else "",
            "<h2>Before and after</h2>",
            tables.render_table(evals) or placeholder("There is no evaluation yet."),
            "<h2>What it draws</h2>",
            samples.render_images(galleries) or placeholder("There is no gallery yet."),
            "<h2>What it answers</h2>",
            samples.render_answers(transcripts) or placeholder("There is no transcript yet."),
            "<h2>Alarms</h2>",
            _alarms(alarm_config, rows) or placeholder("No alarm was raised."),
            "<h2>Curves</h2>",
            charts.render_charts(rows) or placeholder("There are no metrics yet."),
            "<h2>Samples during training</h2>",
            samples.render_sheets(folder) or placeholder("There is no sheet of samples yet."),
            "<h2>Configuration</h2>",
            "<details><summary>The whole config</summary>"
            f"<pre>{escape(_within_pipeline(json.dumps(config, indent=2), folder))}</pre></details>",
        ]
    except ValueError as error:
        raise UserError(
            f"the files of {str(folder)!r} must be as a run writes them; got {error}. "
            "Check samples/*.json"
        ) from error

    # One file: the style is inside, images are base64, and there is nothing to download.
    title = escape(f"corl_jax: {_stage_title(config)}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _within_pipeline(text: str, folder: pathlib.Path) -> str:
    """``text`` with the folders of other stages of a pipeline by their names.

    A pipeline puts their full paths into configs, and a report goes to people who should not see
    where its author's files are.
    """
    return text.replace(f"{folder.resolve().parent}/", "")


def _stage_title(config: Mapping[str, Any]) -> str:
    stage = config["stage"]
    return STAGE_TITLES[stage] if stage in STAGE_TITLES else str(stage)


def _head(
    folder: pathlib.Path, config: Mapping[str, Any], rows: Sequence[Row], run: Mapping[str, Any]
) -> str:
    """Title, and a list of facts about the run."""
    # A metric may be absent from a row, and it is NaN where it was not finite.
    times = (row["time/step"] for row in rows if "time/step" in row)
    seconds = sum(time for time in times if math.isfinite(time))
    last_step = rows[-1]["step"] if rows else 0
    total = f", {_duration(run['seconds'])} from start to report" if "seconds" in run else ""

    # The digest tells runs of different configs apart at a glance.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    init_from = _within_pipeline(config["init_from"], folder) or "scratch"
    facts = {
        "command": run["command"],
        "config": f"sha256 {digest[:16]}, seed {config['seed']}, starts from {init_from}",
        "steps": f"{last_step} of {config['steps']}",
        "time": f"{_duration(seconds)} in training steps" + total,
        "date": run["date"],
        "machine": run["machine"],
        "versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items()),
    }

    # As a list of terms (dt) and descriptions (dd).
    entries = "".join(
        f"<dt>{name}</dt><dd>{_fact(name, text)}</dd>" for name, text in facts.items()
    )

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = escape(_stage_title(config)).capitalize()
    return (
        f"<h1>{title}: {escape(folder.resolve().name)}</h1>"
        f'<p class="soft">Report of a run of corl_jax {escape(__version__)}, written {now}.</p>'
        f'<div class="card small"><dl>{entries}</dl></div>'
    )


def _fact(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "command" else escape(text)


def _duration(seconds: float) -> str:
    # Bounded, since a file may have any number there.
    minutes, rest = divmod(round(min(max(seconds, 0), 1e12)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _alarms(alarm_config: AlarmConfig, rows: Sequence[Row]) -> str:
    """The alarms that the metrics of the run raise, step by step; "" if there are none."""
    # The same alarms as in training, since they depend on the rows alone.
    alarm = Alarm(alarm_config)
    messages = [f"step {row['step']}: {text}" for row in rows for text in alarm.update(row)]

    if not messages:
        return ""
    return "<ul>" + "".join(f"<li>{escape(message)}</li>" for message in messages) + "</ul>"
