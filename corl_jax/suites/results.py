"""What a suite measured, as a folder: one line per question or prompt, metrics, and where from.

A folder has ``results.json`` (metrics by name, and ``about``: policy, suite, settings, versions),
``records.jsonl`` (one ``SuiteRecord`` per line) and ``pictures/``, which records name.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json
from corl_jax.evals.statistics import Estimates, read_estimates

RESULTS, RECORDS, PICTURES = "results.json", "records.jsonl", "pictures"
"""Names in a folder of results."""


@dataclasses.dataclass(frozen=True)
class SuiteRecord:
    """One question with its answer, or one prompt with one picture, and its scores.

    Attributes:
      id: unique in the suite.
      cluster: what is not independent of each other has the same: questions about one picture,
        pictures of one prompt. Intervals are drawn over clusters.
      category: for break-downs; "" for none.
      prompt: the question or the prompt as people read it.
      reference: the right answer; "" where there is none.
      output: the answer; "" for a picture.
      picture: of the question, or the one that was made, relative to the folder; "" for none.
      scores: by name, only those that could be computed.
    """

    id: str
    cluster: str
    category: str
    prompt: str
    reference: str
    output: str
    picture: str
    scores: Mapping[str, float]


TEXTS = ("id", "cluster", "category", "prompt", "reference", "output", "picture")


@dataclasses.dataclass(frozen=True)
class SuiteResults:
    """All of a folder of results.

    Attributes:
      folder: where it lies.
      suite: name of the suite.
      about: policy, settings, versions, machine.
      metrics: estimates by name.
      records: in the suite's order.
    """

    folder: pathlib.Path
    suite: str
    about: Mapping[str, Any]
    metrics: Estimates
    records: tuple[SuiteRecord, ...]


def write_results(
    folder: pathlib.Path,
    about: Mapping[str, Any],
    metrics: Estimates,
    records: Sequence[SuiteRecord],
) -> None:
    """Writes ``records.jsonl``, then ``results.json``, which says that the folder is complete.

    Args:
      folder: of the results; it exists.
      about: what was measured, with ``suite``.
      metrics: estimates by name.
      records: in the suite's order.

    Raises:
      UserError: they cannot be written.
    """
    lines = [json.dumps(dataclasses.asdict(record), ensure_ascii=False) for record in records]
    write_atomically(folder / RECORDS, "".join(f"{line}\n" for line in lines))
    write_json(folder / RESULTS, {"metrics": metrics, "about": about})


def read_results(folder: pathlib.Path) -> SuiteResults:
    """Reads what ``write_results`` wrote.

    Raises:
      UserError: the folder has no complete results, or they are damaged.
    """
    if not (folder / RESULTS).is_file():
        raise UserError(
            f"{str(folder)!r} must be a folder with {RESULTS}, as corl evaluate --out writes it; "
            "there is none. Evaluate into it, or name another folder"
        )
    content = JsonObject.read(folder / RESULTS)
    about = content.block("about")

    records = []
    for number, line in read_lines(folder / RECORDS):
        label = f"line {number} of {str(folder / RECORDS)!r}"
        entry = JsonObject.check(parse_json(line, label), label)
        scores = entry.block("scores")
        records.append(
            SuiteRecord(
                **{name: entry.text(name) for name in TEXTS},
                scores={name: scores.number(name) for name in scores.entries},
            )
        )
    return SuiteResults(
        folder=folder,
        suite=about.text("suite"),
        about=about.entries,
        metrics=read_estimates(content.block("metrics")),
        records=tuple(records),
    )
