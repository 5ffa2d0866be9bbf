"""Reads the files of a work directory that its report is made from, and checks all that it uses.

People copy and edit these files. A value that is missing or of another type is one line of error.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import read_json
from corl_jax.core.checks.paths import check_inside
from corl_jax.core.renamed_keys import rename_keys
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.run_history import Start, read_history
from corl_jax.engine.writers import read_rows
from corl_jax.evals.statistics import read_estimates
from corl_jax.report.samples import SIDES

ADVICE = "the report needs the file as a run writes it; repair or remove it"
UNKNOWN = "not recorded"
UNKNOWN_RUN = {"command": UNKNOWN, "date": UNKNOWN, "machine": UNKNOWN, "versions": {}}
"""Replaces the block ``run`` of ``eval.json`` until it is there."""


def read_config(folder: pathlib.Path) -> JsonObject:
    """``config.json``, with the keys of today; ``stage``, ``seed`` and others are checked."""
    saved = _open(folder / "config.json", folder)
    config = JsonObject(rename_keys(saved.entries), saved.label, ADVICE)
    config.text("stage")
    config.text("init_from")
    config.integer("seed")
    config.integer("steps")
    return config


def read_alarm_config(config: JsonObject) -> AlarmConfig:
    """The block ``alarms`` of a run's config."""
    block = config.block("alarms")
    return AlarmConfig(
        watch=block.texts("watch"),
        patience=block.integer("patience"),
        dominant_share=block.number("dominant_share"),
        diverging_probes=block.integer("diverging_probes"),
    )


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """Rows of ``metrics.jsonl``, NaN for a null; none for a run that has just begun."""
    path = folder / "metrics.jsonl"
    check_inside(path, folder)
    return [row for _, row in read_rows(path)] if path.is_file() else []


def read_evals(folder: pathlib.Path) -> dict[str, Any]:
    """``eval.json``: estimates of both sides, ``guidance`` and ``run``, as far as they are there."""
    if not (folder / "eval.json").is_file():
        return {"run": UNKNOWN_RUN}
    saved = _open(folder / "eval.json", folder)
    evals: dict[str, Any] = {
        side: read_estimates(saved.block(side)) for side in SIDES if side in saved.entries
    }
    if "guidance" in saved.entries:
        evals["guidance"] = saved.number("guidance")

    # What is not recorded yet is said to be so.
    run = saved.optional_block("run")
    for name in ("command", "date", "machine"):
        run.text(name, UNKNOWN)
    versions = run.optional_block("versions")
    for name in versions.entries:
        versions.text(name)
    if "seconds" in run.entries:
        run.number("seconds")
    return evals | {"run": UNKNOWN_RUN | dict(run.entries)}


def read_starts(folder: pathlib.Path) -> tuple[Start, ...]:
    """``run.json``: the starts of the run; none for a run of an older version."""
    check_inside(folder / "run.json", folder)
    return read_history(folder)


def read_galleries(folder: pathlib.Path) -> dict[str, Any]:
    """``samples/gallery_SIDE.json`` by side, as far as they are there."""
    galleries: dict[str, Any] = {}
    for side in SIDES:
        path = folder / "samples" / f"gallery_{side}.json"
        if not path.is_file():
            continue
        gallery = _open(path, folder)
        gallery.number("guidance")
        for prompt in gallery.blocks("prompts"):
            prompt.text("prompt")
            for picture in prompt.blocks("pictures"):
                _check_png(picture)
                # Where nothing says whether a picture is right, it has its reward instead.
                if "reward" in picture.entries:
                    picture.number("reward")
                else:
                    picture.boolean("right")
        galleries[side] = gallery.entries
    return galleries


def read_transcripts(folder: pathlib.Path) -> dict[str, Any]:
    """``samples/answers_SIDE.json`` by side, as far as they are there."""
    transcripts: dict[str, Any] = {}
    for side in SIDES:
        path = folder / "samples" / f"answers_{side}.json"
        if not path.is_file():
            continue
        check_inside(path, folder)
        # The file is a list, and an object around it has the methods to check it.
        questions = JsonObject({"questions": read_json(path, ADVICE)}, repr(str(path)), ADVICE)
        for question in questions.blocks("questions"):
            for name in ("question", "kind", "reference"):
                question.text(name)
            _check_png(question)
            for decoding in ("greedy", "sampled"):
                answer = question.block(decoding)
                answer.text("text")
                answer.boolean("right")
                answer.boolean("well_formed")
        transcripts[side] = questions.entries["questions"]
    return transcripts


def _check_png(block: JsonObject) -> None:
    """Raises UserError for a picture that is not base64, which no page could show."""
    if re.fullmatch(r"[A-Za-z0-9+/]+=*", block.text("png")) is None:
        block.refuse("png", "a PNG file in base64")


def _open(path: pathlib.Path, folder: pathlib.Path) -> JsonObject:
    check_inside(path, folder)
    return JsonObject.read(path, advice=ADVICE)
