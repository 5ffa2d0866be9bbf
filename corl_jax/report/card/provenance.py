"""Where the numbers of a card come from: command, commit, machine, versions, without any path."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from corl_jax.core.private_text import reduce_private
from corl_jax.report import run_files
from corl_jax.report.card.facts import Pairs

TEXTS = ("command", "date", "machine", "commit")


def provenance_of(
    workdir: pathlib.Path, run: Mapping[str, Any], step: int, versions: Mapping[str, str]
) -> Pairs:
    """Command, commit, steps, machine and versions, as far as they were recorded.

    Args:
      workdir: of the run; its ``run.json`` has an entry for each start.
      run: the block of that name in ``eval.json``, which older versions wrote.
      step: of the newest checkpoint.
      versions: that its manifest names.

    Raises:
      UserError: ``run.json`` is damaged.
    """
    facts, minutes, libraries = dict(run), None, {**versions, **run["versions"]}
    if "seconds" in run:
        minutes = run["seconds"] / 60
    starts = run_files.read_starts(workdir)
    if starts:
        facts |= {name: vars(starts[-1])[name] for name in TEXTS}
        minutes = sum(start.seconds for start in starts) / 60
        libraries |= starts[-1].versions

    known = {name: reduce_private(str(facts[name])) for name in TEXTS if facts.get(name)}
    known["steps done"] = str(step)
    if len(starts) > 1:
        known["times started"] = str(len(starts))
    if minutes is not None:
        known["minutes, with evaluations"] = f"{minutes:.1f}"
    known["versions"] = ", ".join(f"{name} {libraries[name]}" for name in sorted(libraries))
    return tuple(
        (name, value) for name, value in known.items() if value and value != run_files.UNKNOWN
    )
