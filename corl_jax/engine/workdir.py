"""The folder of one run: what it was asked, what it measured, what it saved.

In: a path or address and the run's config as JSON. Out: a ``Workdir`` that is either new or proven to be the same run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.files import write_whole
from corl_jax.engine.remote_workdir import CHECKPOINTS, RemoteWorkdir, is_address, remote_folder


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside a work directory: ``config.json metrics.jsonl checkpoints/ samples/ tb/``.

    Attributes:
      path: a folder of this host; of a run at an address, its twin without the checkpoints.
      mirror: joins the two, where the run is at an address.
    """

    path: Path
    mirror: RemoteWorkdir | None = None

    def __str__(self) -> str:
        return str(self.mirror.remote if self.mirror else self.path)

    def publish(self) -> None:
        """Makes what was written under ``path`` last longer than this host, where the run is at an address.

        Raises:
          UserError: it cannot be written.
        """
        try:
            if self.mirror:
                self.mirror.push()
        except Exception as error:
            raise UserError(
                f"workdir {self} cannot be written ({describe_error(error)}); see to it and start again"
            ) from error

    @property
    def config(self) -> Path:
        """The run's whole config."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path | epath.Path:
        """One folder per saved step; the one thing that is written to an address directly, by all processes."""
        return (self.mirror.remote if self.mirror else self.path) / CHECKPOINTS

    @property
    def samples(self) -> Path:
        """Pictures of samples, by step."""
        return self.path / "samples"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tb"


def open_workdir(
    path: str | Path, config_json: Mapping[str, Any], may_differ: Sequence[str] = ("steps",)
) -> Workdir:
    """Creates a work directory, or opens one of the same config to resume it.

    Args:
      path: the folder, whose parents are created too, or an address ``gs://BUCKET/FOLDER``.
      config_json: the whole config, JSON values only.
      may_differ: keys (dotted for nested ones) that a resumed run may change, such as its length; what is on disk is
        then replaced by the new config.

    Raises:
      UserError: the path is a file or a folder of something else, its config differs, or it cannot be reached or
        written; nothing is then changed.
    """
    workdir = _located(path)
    wanted = json.loads(json.dumps(config_json, allow_nan=False))
    if workdir.path.exists() and not workdir.path.is_dir():
        raise UserError(f"workdir {workdir} is a file; expected a folder or a new path")
    if workdir.config.exists():
        _compare(workdir, wanted, may_differ)
    elif not _is_empty(workdir):
        raise UserError(
            f"workdir {workdir} is not empty and has no config.json, so it is no run of ours; "
            f"choose an empty or new --workdir"
        )
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        write_whole(workdir.config, json.dumps(wanted, indent=2, sort_keys=True) + "\n")
        for folder in (workdir.checkpoints, workdir.samples):
            folder.mkdir(parents=True, exist_ok=True)
        workdir.metrics.touch()
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written ({describe_error(error)}); choose another --workdir"
        ) from error
    return workdir


def joined_workdir(path: str | Path) -> Workdir:
    """The work directory that ``open_workdir`` made, seen from any process of the run.

    Raises:
      UserError: it is not there, so the processes do not share a file system.
    """
    workdir = _located(path)
    if not workdir.config.exists():
        raise UserError(
            f"workdir {workdir} is not seen by every process of the run; choose a folder that all hosts share, or gs://"
        )
    workdir.samples.mkdir(exist_ok=True)  # a bucket keeps no empty folders
    return workdir


def _located(path: str | Path) -> Workdir:
    """Where a work directory is, with its twin filled where it is at an address and holds a run."""
    if not is_address(path):
        return Workdir(Path(path).expanduser().absolute())
    mirror = RemoteWorkdir(remote_folder(str(path)))
    try:
        if (mirror.remote / "config.json").exists():
            mirror.pull()
    except Exception as error:
        raise UserError(
            f"workdir {path} cannot be reached ({describe_error(error)}); it needs pip install 'corl_jax[gcs]', a "
            "bucket that exists, and gcloud auth application-default login where the host has no service account"
        ) from error
    return Workdir(mirror.local, mirror)


def _is_empty(workdir: Workdir) -> bool:
    """Whether nothing is there yet."""
    place = workdir.mirror.remote if workdir.mirror else workdir.path
    return not place.exists() or not any(place.iterdir())


def _compare(workdir: Workdir, wanted: dict[str, Any], may_differ: Sequence[str]) -> None:
    """Raises unless the config on disk equals ``wanted`` in every key but ``may_differ``."""
    try:
        found = json.loads(workdir.config.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{workdir}/config.json is not readable JSON ({error}); choose another --workdir"
        ) from error
    here, there = _flat(wanted), _flat(found)
    differ = [
        f"{key} is {there.get(key, 'absent')!r} there and {here.get(key, 'absent')!r} here"
        for key in sorted(here.keys() | there.keys())
        if key not in may_differ
        and (key not in here or key not in there or not _same(here[key], there[key]))
    ]
    if differ:
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise UserError(
            f"workdir {workdir} belongs to a run of another config: {'; '.join(differ[:3])}{more}; "
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
