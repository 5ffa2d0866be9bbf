"""The work directory of one run: its config, its metrics, its samples and its checkpoints.

In: a path or an address, and the run's config as JSON. Out: a ``Workdir`` that is either new or
belongs to a run of the same config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import check_writable, user_path
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.files import write_atomically
from corl_jax.core.renamed_keys import rename_keys
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.remote_workdir import (
    CHECKPOINTS,
    RemoteWorkdir,
    has_run,
    is_address,
    remote_folder,
)
from corl_jax.engine.writers import read_rows

WRITTEN = (
    "config.json", "run.json", "trackers.json", "eval.json", "metrics.jsonl", "report.html",
    "checkpoints", "samples", "completions", "tb", "tokenizer", "trace",
)  # fmt: skip
"""What a run may write into its folder before its first step is done."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside a work directory: ``config.json metrics.jsonl checkpoints/ samples/ tb/``.

    Attributes:
      path: a folder on this host. If the run is in a bucket, the local copy without checkpoints.
      remote: the folder in the bucket, if the run is in one.
    """

    path: Path
    remote: RemoteWorkdir | None = None

    def __str__(self) -> str:
        return str(self.remote.folder if self.remote else self.path)

    def push(self) -> None:
        """Uploads what was written under ``path``, if the run is in a bucket.

        Raises:
          UserError: the bucket cannot be written.
        """
        # Storage clients raise errors of many kinds; to a user all of them mean the same.
        try:
            if self.remote:
                self.remote.push()
        except Exception as error:
            raise UserError(
                f"workdir {self} cannot be written ({describe_error(error)}); "
                "check access to it and start the same command again"
            ) from error

    @property
    def config(self) -> Path:
        """The run's config."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path | epath.Path:
        """One folder per saved step. In a bucket all processes write there directly."""
        return (self.remote.folder if self.remote else self.path) / CHECKPOINTS

    @property
    def samples(self) -> Path:
        """Images of samples, by step."""
        return self.path / "samples"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.path / "tb"


def open_workdir(
    path: str | Path,
    config_json: Mapping[str, Any],
    may_differ: Sequence[str] = ("steps", "model.unroll"),
    check: Callable[[Workdir], None] = lambda workdir: None,
) -> Workdir:
    """Creates a work directory, or opens one of the same config to resume its run.

    Args:
      path: the folder, whose parents are created too, or an address ``gs://BUCKET/FOLDER``.
      config_json: the entire config, JSON values only.
      may_differ: config keys (with dots for nested ones) that a resumed run may change: its length,
        and how many layers a turn of a loop has, which changes what is compiled and no more than
        rounding. The saved config is then replaced.
      check: called with a work directory that is there, before anything is written; it may raise.

    Raises:
      UserError: the path is a file or a folder of something else, its config differs, or it cannot
        be reached or written. Nothing is changed in that case.
    """
    workdir = _locate(path)
    # A round trip through JSON makes tuples lists, as they are in the saved config.
    config = json.loads(json.dumps(config_json, allow_nan=False))

    # Refuse first, so that nothing has been written when an error is raised.
    _check_there(workdir, config, may_differ)
    if workdir.config.exists():
        check(workdir)

    # Then create whatever is missing.
    try:
        workdir.path.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir.config, json.dumps(config, indent=2, sort_keys=True) + "\n")
        for folder in (workdir.checkpoints, workdir.samples):
            folder.mkdir(parents=True, exist_ok=True)
        workdir.metrics.touch()
    # No rights, a full disk, a read-only file system.
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written ({describe_error(error)}); "
            "choose another --workdir"
        ) from error
    return workdir


def find_workdir(
    path: str | Path, config_json: Mapping[str, Any], may_differ: Sequence[str]
) -> Workdir | None:
    """The work directory of a run of this config, to look at before anything is built for it.

    Args:
      path, config_json, may_differ: as for ``open_workdir``.

    Returns:
      None where there is no run, or one of another config, which ``open_workdir`` refuses.

    Raises:
      UserError: the path cannot be read.
    """
    workdir = _locate(path)
    if not workdir.config.is_file():
        return None
    config = json.loads(json.dumps(config_json, allow_nan=False))
    return None if _differences(workdir, config, may_differ) else workdir


def check_workdir(
    path: str | Path, config_json: Mapping[str, Any], may_differ: Sequence[str]
) -> None:
    """Checks what ``open_workdir`` would refuse, and changes nothing.

    Of an address only whether it answers is known before it is opened.

    Raises:
      UserError: the folder is of something else or of a run of another config, or it cannot be made
        or written.
    """
    check_reachable(path)
    if is_address(path):
        return
    workdir = _locate(path)
    _check_there(workdir, json.loads(json.dumps(config_json)), may_differ)
    check_writable(workdir.path, "--workdir")


def undo_of(path: str | Path) -> Callable[[], None]:
    """A function that removes a work directory again, with the folders above it that are missing now.

    It removes what a run writes and nothing else, and does nothing if a run is there already, or at
    an address.
    """
    if is_address(path):
        return lambda: None
    workdir = _locate(path)
    if workdir.config.exists():
        return lambda: None
    missing = [place for place in (workdir.path, *workdir.path.parents) if not place.exists()]

    def undo() -> None:
        for name in WRITTEN:
            if (workdir.path / name).is_dir():
                shutil.rmtree(workdir.path / name)
            for file in (name, f"{name}.part"):
                (workdir.path / file).unlink(missing_ok=True)
        # A folder that the user has made stays, and so does one with anything else in it.
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()

    return undo


def has_steps(workdir: Workdir) -> bool:
    """Whether a run has finished a step: there is a checkpoint, or a row of one."""
    if saved_steps(workdir.checkpoints):
        return True
    return workdir.metrics.exists() and any(
        row["step"] > 0 for _, row in read_rows(workdir.metrics)
    )


def _check_there(workdir: Workdir, config: dict[str, Any], may_differ: Sequence[str]) -> None:
    """Raises UserError unless a work directory is new, empty, or of a run of the same config."""
    if workdir.path.exists() and not workdir.path.is_dir():
        raise UserError(f"workdir {workdir} is a file; expected a folder or a new path")
    if workdir.config.exists():
        _check_same_config(workdir, config, may_differ)
    elif not _is_empty(workdir):
        raise UserError(
            f"workdir {workdir} is not empty and has no config.json, so it is not a run of "
            "corl_jax; choose an empty or new --workdir"
        )


def join_workdir(path: str | Path) -> Workdir:
    """The work directory that ``open_workdir`` made on the first process, for any process.

    Raises:
      UserError: it does not exist here, so the processes do not share a file system.
    """
    workdir = _locate(path)
    if not workdir.config.exists():
        raise UserError(
            f"workdir {workdir} does not exist on every process of the run; "
            "choose a folder that all hosts share, or gs://"
        )
    workdir.samples.mkdir(exist_ok=True)  # a bucket keeps no empty folders
    return workdir


def _locate(path: str | Path) -> Workdir:
    """The work directory at ``path``; if it is a run in a bucket, with its files downloaded."""
    if not is_address(path):
        return Workdir(user_path(path, "the work directory").absolute())

    remote = RemoteWorkdir(remote_folder(str(path)))
    with _errors_of_access(path):
        if has_run(remote.folder):
            remote.pull()
    return Workdir(remote.local, remote)


def check_reachable(path: str | Path) -> None:
    """Refuses an address that gives no answer, before time is spent on anything else.

    Raises:
      UserError: see above.
    """
    if is_address(path):
        with _errors_of_access(path):
            has_run(remote_folder(str(path)))


@contextlib.contextmanager
def _errors_of_access(path: str | Path) -> Iterator[None]:
    """Whatever the storage client raises, the user needs to know what access to ``path`` takes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"workdir {path} cannot be reached ({describe_error(error)}); it needs a network, "
            "pip install 'corl_jax[gcs]', a bucket that exists, and "
            "gcloud auth application-default login where the host has no service account"
        ) from error


def _is_empty(workdir: Workdir) -> bool:
    """Whether the folder is missing or has no files."""
    folder = workdir.remote.folder if workdir.remote else workdir.path
    return not folder.exists() or not any(folder.iterdir())


def _check_same_config(workdir: Workdir, config: dict[str, Any], may_differ: Sequence[str]) -> None:
    """Raises UserError unless saved config and ``config`` are equal in all but ``may_differ``."""
    differences = _differences(workdir, config, may_differ)
    # Three of them are enough to recognise the other config.
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise UserError(
            f"workdir {workdir} belongs to a run of another config: "
            f"{'; '.join(differences[:3])}{more}; choose another --workdir, or the same config "
            f"to resume (only {' and '.join(may_differ)} may differ)"
        )


def _differences(workdir: Workdir, config: dict[str, Any], may_differ: Sequence[str]) -> list[str]:
    """What differs between the saved config and ``config``, but for ``may_differ``."""
    label, advice = f"{workdir}/config.json", "choose another --workdir"
    saved_config = rename_keys(JsonObject.read(workdir.config, label, advice).entries)

    # Key by key, so that the error can name what differs. A run of an older version may have written
    # its config under keys that have other names today.
    saved, current = _flatten(saved_config), _flatten(config)
    differences = []
    for key in sorted(current.keys() | saved.keys()):
        is_same = key in current and key in saved and _equal_json(current[key], saved[key])
        if key not in may_differ and not is_same:
            differences.append(
                f"{key} was {saved.get(key, 'absent')!r} and is now {current.get(key, 'absent')!r}"
            )
    return differences


def _equal_json(value: object, other: object) -> bool:
    """Exact equality as JSON, in which 1, 1.0 and true are different values."""
    return json.dumps(value) == json.dumps(other)


def _flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one dictionary with dotted keys; lists are values."""
    # An empty object is a value too, since its key would otherwise be lost.
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
