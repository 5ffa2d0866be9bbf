"""The small files of a run whose work directory is an address: a twin of it on this host, since objects cannot grow.

In: an address such as ``gs://bucket/run``. Out: a local folder with all that lies there but the checkpoints, which
Orbax writes to the address itself, and ``push``, which copies up what has changed.

A run pushes before every checkpoint, so that no checkpoint is ahead of its rows; rows ahead of the newest checkpoint
are played again. Hence, whatever is lost with the host, the bucket alone is enough to go on bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from corl_jax.core.errors import UserError

CHECKPOINTS = "checkpoints"


def is_address(path: Any) -> bool:
    """Whether ``path``, as a user typed it or as ``epath`` holds it, is no folder of this host."""
    return "://" in str(path)


def only_folders(path: Any) -> None:
    """Refuses an address where only folders are read.

    Raises:
      UserError: it is one.
    """
    if is_address(path):
        raise UserError(
            f"{path} is an address, and here only folders are read; copy it first: "
            f"gcloud storage cp --recursive {path} ."
        )


def remote_folder(address: str) -> epath.Path:
    """The folder at an address, not yet looked at.

    Raises:
      UserError: no address of a folder in a Google Cloud Storage bucket.
    """
    bucket, _, folder = address.removeprefix("gs://").partition("/")
    if not address.startswith("gs://") or not bucket or not folder.strip("/"):
        raise UserError(
            f"workdir {address} is no address that a run writes to; expected gs://BUCKET/FOLDER or a folder"
        )
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = (
        False  # Orbax and other hosts write there too
    )
    return epath.Path(address.rstrip("/"))


class RemoteWorkdir:
    """A run's folder at an address, and its twin ``local``, which begins empty and goes with the process."""

    def __init__(self, remote: epath.Path):
        self.remote = remote
        self._folder = tempfile.TemporaryDirectory(prefix="corl_run_")
        self.local = Path(self._folder.name)
        self._same: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Copies everything but the checkpoints down."""
        for name, path in _files(self.remote):
            twin = self.local / name
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(path.read_bytes())
            self._same[name] = _stamp(twin)

    def push(self) -> None:
        """Copies up what is new or has changed since the last copy, ``config.json`` last: it says that all is there."""
        files = {
            str(path.relative_to(self.local)): path
            for path in self.local.rglob("*")
            if path.is_file()
        }
        for name in sorted(files, key=lambda name: (name == "config.json", name)):
            stamp = _stamp(files[name])
            if self._same.get(name) != stamp and not name.endswith(".part"):
                (self.remote / name).parent.mkdir(parents=True, exist_ok=True)
                (self.remote / name).write_bytes(files[name].read_bytes())
                self._same[name] = stamp


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does."""
    return path.stat().st_size, path.stat().st_mtime_ns


def _files(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, epath.Path]]:
    """All files under ``folder`` but checkpoints, by relative name."""
    for path in folder.iterdir():
        name = prefix + path.name
        if path.is_dir():
            if name != CHECKPOINTS:
                yield from _files(path, name + "/")
        else:
            yield name, path
