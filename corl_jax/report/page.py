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
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically
from corl_jax.core.renamed_keys import rename_keys
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.remote_workdir import require_local_path
from corl_jax.report import charts, samples, tables
from corl_jax.report.samples import SIDES, placeholder
from corl_jax.report.style import CSS

REPORT_FILE = "report.html"
STAGE_TITLES = {
    "rl": "reinforcement learning",
    "sft": "supervised learning",
    "tokenizer": "image tokenizer",
}
UNKNOWN_RUN = {
    "command": "not recorded",
    "date": "not recorded",
    "machine": "not recorded",
    "versions": {},
}
"""Replaces the block ``run`` of ``eval.json`` until it is there."""

Row = Mapping[str, Any]
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
    folder = pathlib.Path(workdir).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"a work directory must contain config.json; {str(workdir)!r} does not. "
            "Choose the folder of a run"
        )
    write_atomically(folder / REPORT_FILE, render_page(folder))
    return folder / REPORT_FILE


def render_page(folder: pathlib.Path) -> str:
    """The page as HTML text."""
    # All files are read first, so that errors of reading name their file.
    config = rename_keys(read_json(folder / "config.json"))
    rows = read_rows(folder / "metrics.jsonl")
    evals = read_json(folder / "eval.json") if (folder / "eval.json").is_file() else {}
    galleries = _read_sides(folder / "samples", "gallery")
    transcripts = _read_sides(folder / "samples", "answers")
    run = {**UNKNOWN_RUN, **evals.get("run", {})}

    # People edit these files; whatever is missing or misshapen in them becomes one line of error.
    try:
        sections = [
            _head(folder, config, rows, run),
            tables.render_tiles(evals) if {"before", "after"} <= evals.keys() else "",
            "<h2>Before and after</h2>",
            tables.render_table(evals) or placeholder("There is no evaluation yet."),
            "<h2>What it draws</h2>",
            samples.render_images(galleries) or placeholder("There is no gallery yet."),
            "<h2>What it answers</h2>",
            samples.render_answers(transcripts) or placeholder("There is no transcript yet."),
            "<h2>Alarms</h2>",
            _alarms(config, rows) or placeholder("No alarm was raised."),
            "<h2>Curves</h2>",
            charts.render_charts(rows) or placeholder("There are no metrics yet."),
            "<h2>Samples during training</h2>",
            samples.render_sheets(folder / "samples")
            or placeholder("There is no sheet of samples yet."),
            "<h2>Configuration</h2>",
            "<details><summary>The whole config</summary>"
            f"<pre>{escape(json.dumps(config, indent=2))}</pre></details>",
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the files of {str(folder)!r} must be as a run writes them; got "
            f"{type(error).__name__}: {error}. Check eval.json and samples/*.json"
        ) from error

    # One file: the style is inside, images are base64, and there is nothing to download.
    title = escape(f"corl_jax: {_stage_title(config)}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _read_sides(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """``NAME_before.json`` and ``NAME_after.json``, as far as they exist."""
    paths = {side: folder / f"{name}_{side}.json" for side in SIDES}
    return {side: read_json(path) for side, path in paths.items() if path.is_file()}


def _stage_title(config: Mapping[str, Any]) -> str:
    stage = config["stage"]
    return STAGE_TITLES[stage] if stage in STAGE_TITLES else str(stage)


def _head(
    folder: pathlib.Path, config: Mapping[str, Any], rows: Sequence[Row], run: Mapping[str, Any]
) -> str:
    """Title, and a list of facts about the run."""
    # A metric may be absent from a row, and it is null where it was not finite.
    seconds = sum(
        row["time/step"] for row in rows if "time/step" in row and row["time/step"] is not None
    )
    last_step = int(rows[-1]["step"]) if rows else 0
    total = f", {_duration(run['seconds'])} from start to report" if "seconds" in run else ""

    # The digest tells runs of different configs apart at a glance.
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    init_from = config["init_from"] or "scratch"
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
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _alarms(config: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The alarms that the metrics of the run raise, step by step; "" if there are none."""
    # The same alarms as in training, since they depend on the rows alone.
    block = config["alarms"]
    alarm = Alarm(AlarmConfig(**block | {"watch": tuple(block["watch"])}))
    messages = []
    for row in rows:
        # JSON has no NaN: the metrics file contains null in its place.
        values = {name: math.nan if value is None else value for name, value in row.items()}
        messages += [f"step {int(row['step'])}: {text}" for text in alarm.update(values)]

    if not messages:
        return ""
    return "<ul>" + "".join(f"<li>{escape(message)}</li>" for message in messages) + "</ul>"


def read_json(path: pathlib.Path) -> Any:
    """Content of a JSON file of the run.

    Raises:
      UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} must be JSON; got {error}. Repair or remove the file"
        ) from None


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``, without a last line that is still being written.

    Raises:
      UserError: another line is not JSON.
    """
    # A run that has just begun has no file yet.
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            # Only the last line may be incomplete.
            if number < len(lines):
                raise UserError(
                    f"every line of {str(path)!r} must be JSON; line {number} has {error}. "
                    "Repair the file"
                ) from None
    return rows
