"""The folder of one run: what it was asked, what it measured, what it saved.

In: a path and the run's config as JSON. Out: a ``Workdir`` that is either new or proven to be the same run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside a work directory: ``config.json metrics.jsonl checkpoints/ samples/ tb/``."""

    path: Path

    @property
    def config(self) -> Path:
        """The run's whole config."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved step."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Pictures of samples, by step."""
        return self.path / "samples"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tb"


def open_workdir(path: str | Path, config_json: Mapping[str, Any], may_differ: Sequence[str] = ("steps",)) -> Workdir:
    """Creates a work directory, or opens one of the same config to resume it.

    Args:
      path: the folder; its parents are created too.
      config_json: the whole config, JSON values only.
      may_differ: keys (dotted for nested ones) that a resumed run may change, such as its length; what is on disk is
        then replaced by the new config.

    Raises:
      UserError: the path is a file or a folder of something else, or its config differs; nothing is then written.
    """
    workdir = Workdir(Path(path).expanduser().absolute())
    wanted = json.loads(json.dumps(config_json, allow_nan=False))
    if workdir.path.exists() and not workdir.path.is_dir():
        raise UserError(f"workdir {workdir.path} is a file; expected a folder or a new path")
    if workdir.config.exists():
        _compare(workdir, wanted, may_differ)
    elif workdir.path.exists() and any(workdir.path.iterdir()):
        raise UserError(
            f"workdir {workdir.path} is not empty and has no config.json, so it is no run of ours; "
            f"choose an empty or new --workdir"
        )
    workdir.path.mkdir(parents=True, exist_ok=True)
    part = workdir.config.with_suffix(".json.part")
    part.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n")
    part.replace(workdir.config)
    for folder in (workdir.checkpoints, workdir.samples):
        folder.mkdir(exist_ok=True)
    workdir.metrics.touch()
    return workdir


def joined_workdir(path: str | Path) -> Workdir:
    """The work directory that ``open_workdir`` made, seen from any process of the run.

    Raises:
      UserError: it is not there, so the processes do not share a file system.
    """
    workdir = Workdir(Path(path).expanduser().absolute())
    if not workdir.config.exists():
        raise UserError(
            f"workdir {workdir.path} is not seen by every process of the run; choose a folder that all hosts share"
        )
    return workdir


def rewind_metrics(path: Path, step: int) -> None:
    """Keeps the rows of ``metrics.jsonl`` up to ``step``; later rows and a half-written last line go.

    Raises:
      UserError: a line before the last one is not JSON with a ``step``.
    """
    lines = path.read_bytes().split(b"\n")
    kept = []
    for number, line in enumerate(lines):
        try:
            row_step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise UserError(
                f"{path}, line {number + 1}: expected a JSON object with a step; repair or remove the file"
            ) from error
        if row_step <= step:
            kept.append(line)
    part = path.with_suffix(".jsonl.part")
    part.write_bytes(b"".join(line + b"\n" for line in kept))
    part.replace(path)


def _compare(workdir: Workdir, wanted: dict[str, Any], may_differ: Sequence[str]) -> None:
    """Raises unless the config on disk equals ``wanted`` in every key but ``may_differ``."""
    try:
        found = json.loads(workdir.config.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{workdir.config} is not readable JSON ({error}); choose another --workdir") from error
    here, there = _flat(wanted), _flat(found)
    differ = [
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
        for key in sorted(here.keys() | there.keys())
        if key not in may_differ and (key not in here or key not in there or not _same(here[key], there[key]))
    ]
    if differ:
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise UserError(
            f"workdir {workdir.path} belongs to a run of another config: {'; '.join(differ[:3])}{more}; "
            f"choose another --workdir, or the same config to resume (only {', '.join(may_differ)} may differ)"
        )


def _same(left: Any, right: Any) -> bool:
    """Exact equality as JSON, so that 1, 1.0 and true are three things."""
    return json.dumps(left) == json.dumps(right)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted keys; lists stay whole."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }
