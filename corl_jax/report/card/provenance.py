"""Where the numbers of a card come from: command, commit, machine, versions, without any path."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import check_inside
from corl_jax.core.private_text import reduce_private
from corl_jax.report import run_files
from corl_jax.report.card.facts import Pairs

HISTORY_FILE = "run.json"
TEXTS = ("command", "date", "machine", "commit")


def provenance_of(
    workdir: pathlib.Path, run: Mapping[str, Any], step: int, versions: Mapping[str, str]
) -> Pairs:
    """Command, commit, steps, machine and versions, as far as they were recorded."""
    facts = {name: str(run[name]) for name in TEXTS if run.get(name)}
    starts = _starts(workdir)
    if starts:
        facts |= {name: starts[-1].text(name) for name in TEXTS if starts[-1].has(name)}
    known = {name: reduce_private(facts[name]) for name in TEXTS if facts.get(name)}
    known["steps done"] = str(step)
    if len(starts) > 1:
        known["times started"] = str(len(starts))
    if "seconds" in run:
        known["minutes from start to report"] = f"{run['seconds'] / 60:.1f}"
    libraries = {**versions, **run["versions"]}
    known["versions"] = ", ".join(f"{name} {libraries[name]}" for name in sorted(libraries))
    return tuple(
        (name, value) for name, value in known.items() if value and value != run_files.UNKNOWN
    )


def _starts(workdir: pathlib.Path) -> Sequence[JsonObject]:
    """The entries of ``run.json``, one for each start; none for a run of an older version."""
    path = workdir / HISTORY_FILE
    if not path.is_file():
        return ()
    check_inside(path, workdir)
    return JsonObject.read(path, advice=run_files.ADVICE).blocks("starts")
