"""A file with a line per picture that was judged, in the columns of GenEval's official results."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.files import name_write_errors, sync, write_atomically
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.judging.geneval_detections import Detection
from corl_jax.suites.judging.geneval_rules import Verdict
from corl_jax.suites.results import SuiteRecord


def verdict_line(
    record: SuiteRecord,
    prompt: GenerationPrompt,
    verdict: Verdict,
    objects: Mapping[str, Sequence[Detection]],
) -> str:
    """A line with the columns of the official results."""
    details = {name: [[*one.box, one.score] for one in group] for name, group in objects.items()}
    entry = {
        "filename": record.picture,
        "tag": prompt.category,
        "prompt": prompt.prompt,
        "correct": verdict.is_correct,
        "reason": "\n".join(verdict.reasons),
        "metadata": json.dumps(dict(prompt.metadata)),
        "details": json.dumps(details),
    }
    return json.dumps(entry)


def append_lines(path: pathlib.Path, lines: Sequence[str]) -> None:
    with name_write_errors(path):
        with path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        sync(path.parent)


def read_verdicts(path: pathlib.Path) -> dict[str, bool]:
    """Verdicts by picture; a last line that was not finished is removed from the file."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_atomically(path, whole)
    verdicts = {}
    for number, line in read_lines(path):
        label = f"line {number} of {str(path)!r}"
        entry = JsonObject.check(parse_json(line, label), label)
        verdicts[entry.text("filename")] = entry.boolean("correct")
    return verdicts
