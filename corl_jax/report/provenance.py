"""Where a run comes from, as facts for the head of its report: of today's runs and of older ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.private_text import reduce_private
from corl_jax.core.progress import format_seconds
from corl_jax.engine.run_history import Start

LONGEST = 1e9
"""Seconds are bounded, since a file may have any number there."""


def provenance_facts(starts: Sequence[Start], run: Mapping[str, Any]) -> dict[str, str]:
    """Name to text: command, dates, duration, machine, versions and commit.

    Args:
      starts: of ``run.json``; none for a run of an older version.
      run: the block ``run`` of ``eval.json``, which older versions wrote.
    """
    if not starts:
        facts = {
            "command": reduce_private(run["command"]),
            "date": run["date"],
            "machine": run["machine"],
            "versions": _version_text(run["versions"]),
        }
        return facts | ({"duration": _duration(run["seconds"])} if "seconds" in run else {})

    # What differs between starts is named with each of them.
    newest = starts[-1]
    facts = {
        "command": newest.command,
        "started": "; ".join(_start_text(start) for start in starts),
        "duration": _duration(sum(start.seconds for start in starts)) + ", with evaluations",
        "machine": _different(start.machine for start in starts),
        "versions": _different(_version_text(start.versions) for start in starts),
        "commit": _different(start.commit or "not known" for start in starts),
    }
    if newest.processes > 1:
        facts["processes"] = str(newest.processes)
    return facts


def _start_text(start: Start) -> str:
    if start.first_step == 0:
        return start.date
    return f"{start.date} from step {start.first_step}"


def _different(texts: Any) -> str:
    """The different ones, in the order of the starts."""
    return "; then ".join(dict.fromkeys(texts))


def _version_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) or "not recorded"


def _duration(seconds: float) -> str:
    return format_seconds(min(max(seconds, 0), LONGEST))
