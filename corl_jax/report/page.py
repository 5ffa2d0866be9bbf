"""A run on one page: ``report.html``, static, without scripts, that opens from a file and needs no network.

In: a work directory, finished or not. Out: the page in it. What is missing is said, not guessed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax import __version__
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_whole
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.remote_workdir import only_folders
from corl_jax.report import charts, samples, tables
from corl_jax.report.samples import SIDES, empty
from corl_jax.report.style import CSS

FILE = "report.html"
TITLES = {
    "rl": "reinforcement learning",
    "sft": "supervised learning",
    "tokenizer": "image tokenizer",
}
UNKNOWN = {
    "command": "not recorded",
    "date": "not recorded",
    "machine": "not recorded",
    "versions": {},
}
"""Stands for a block ``run`` that is not in ``eval.json`` (yet)."""


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes ``report.html`` of a work directory and returns its path.

    Raises:
      UserError: no work directory, or a file in it that cannot be read; an older report then stays.
    """
    only_folders(workdir)
    folder = pathlib.Path(workdir).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{str(workdir)!r} has no config.json, so it is no work directory; expected one of a run"
        )
    write_whole(folder / FILE, render(folder))
    return folder / FILE


def render(folder: pathlib.Path) -> str:
    """The page as text."""
    config = read_json(folder / "config.json")
    rows = read_rows(folder / "metrics.jsonl")
    evals = read_json(folder / "eval.json") if (folder / "eval.json").is_file() else {}
    parts = {
        what: {
            side: read_json(folder / "samples" / f"{what}_{side}.json")
            for side in SIDES
            if (folder / "samples" / f"{what}_{side}.json").is_file()
        }
        for what in ("gallery", "answers")
    }
    run = {**UNKNOWN, **evals.get("run", {})}
    try:
        body = [
            _head(folder, config, rows, run),
            tables.tiles(evals) if {"before", "after"} <= evals.keys() else "",
            "<h2>Before and after</h2>",
            tables.table(evals)
            if evals.keys() & set(SIDES)
            else empty("There is no evaluation yet."),
            "<h2>What it draws</h2>",
            samples.pictures(parts["gallery"])
            if parts["gallery"]
            else empty("There is no gallery yet."),
            "<h2>What it answers</h2>",
            samples.answers(parts["answers"])
            if parts["answers"]
            else empty("There is no transcript yet."),
            "<h2>Alarms</h2>",
            _alarms(config, rows),
            "<h2>Curves</h2>",
            _curves(rows),
            "<h2>Samples during training</h2>",
            samples.sheets(folder / "samples") or empty("There is no sheet of samples yet."),
            "<h2>Configuration</h2>",
            f"<details><summary>The whole config</summary><pre>{escape(json.dumps(config, indent=2))}</pre></details>",
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"a file of {str(folder)!r} is not as a run writes it ({type(error).__name__}: {error}); "
            f"look at eval.json and samples/*.json, or evaluate again"
        ) from error
    title = escape(f"corl_jax: {_title(config)}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _title(config: Mapping[str, Any]) -> str:
    return TITLES[config["stage"]] if config["stage"] in TITLES else str(config["stage"])


def _head(
    folder: pathlib.Path, config: Any, rows: list[dict[str, Any]], run: Mapping[str, Any]
) -> str:
    """Title and the list of what was run."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    seconds = sum(
        row["time/step"] for row in rows if "time/step" in row and row["time/step"] is not None
    )
    done = int(rows[-1]["step"]) if rows else 0
    total = f", {_duration(run['seconds'])} from start to report" if "seconds" in run else ""
    facts = {
        "command": run["command"],
        "config": f"sha256 {digest[:16]}, seed {config['seed']}, starts from {config['init_from'] or 'scratch'}",
        "steps": f"{done} of {config['steps']}",
        "time": f"{_duration(seconds)} in training steps" + total,
        "date": run["date"],
        "machine": run["machine"],
        "versions": ", ".join(f"{name} {value}" for name, value in run["versions"].items()),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{_fact(name, text)}</dd>" for name, text in facts.items())
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"<h1>{escape(_title(config)).capitalize()}: {escape(folder.resolve().name)}</h1>"
        f'<p class="soft">Report of a run of corl_jax {escape(__version__)}, written {now}.</p>'
        f'<div class="card small"><dl>{listed}</dl></div>'
    )


def _alarms(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """What the run said of its own numbers, step by step."""
    alarm = Alarm(AlarmConfig(**config["alarm"] | {"watch": tuple(config["alarm"]["watch"])}))
    said = []
    for row in rows:
        known = {name: math.nan if value is None else value for name, value in row.items()}
        said += [f"step {int(row['step'])}: {text}" for text in alarm.feed(known)]
    return (
        "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in said) + "</ul>"
        if said
        else empty("None rang.")
    )


def _fact(name: str, text: str) -> str:
    return f"<code>{escape(text)}</code>" if name == "command" else escape(text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _curves(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return empty("There are no metrics yet.")
    columns = sorted({name for row in rows for name, value in row.items() if value is not None})
    main, more = charts.panels(columns)
    text = '<p class="soft">Thin lines are steps, strong lines their mean. Blue is pictures, orange is answers.</p>'
    text += f'<div class="grid charts">{"".join(_chart(panel, rows) for panel in main)}</div>'
    if more:
        text += f'<details><summary>{len(more)} more</summary><div class="grid charts">'
        text += "".join(_chart(panel, rows) for panel in more) + "</div></details>"
    return text


def _chart(panel: charts.Panel, rows: list[dict[str, Any]]) -> str:
    return f'<div class="card"><h3>{escape(panel.title)}</h3>{charts.draw(panel, rows)}</div>'


def read_json(path: pathlib.Path) -> Any:
    """A JSON file of the run.

    Raises:
      UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{str(path)!r} is not readable JSON ({error}); repair or remove the file"
        ) from None


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``; a last line that is still being written is left out."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(
                    f"{str(path)!r}, line {number} is not JSON ({error}); repair the file"
                ) from None
    return rows
