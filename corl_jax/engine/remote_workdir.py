"""A work directory in a bucket, with a local copy of its small files, since objects cannot grow.

In: an address such as ``gs://bucket/run``. Out: a local folder with every file of the run except
the checkpoints, which Orbax writes to the address itself, and ``push``, which uploads what has
changed.

A run pushes before every checkpoint, so no checkpoint is ahead of its rows. Rows that are ahead of
the newest checkpoint are written again on resume. Whatever is lost with the host, the bucket alone
is therefore enough to resume bit for bit.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
from etils import epath

from corl_jax.core.errors import UserError

CHECKPOINTS = "checkpoints"

CONTACT_SECONDS = 15.0
"""How long the first answer from a bucket may take."""


def is_address(path: str | Path | epath.Path) -> bool:
    """Whether ``path``, as a user typed it or as ``epath`` has it, is not a folder of this host."""
    return "://" in str(path)


def require_local_path(path: str | Path) -> None:
    """Checks that ``path`` is on this host.

    Raises:
      UserError: it is an address.
    """
    if is_address(path):
        raise UserError(
            f"{path} is an address, but only local folders can be read here; copy it first: "
            f"gcloud storage cp --recursive {path} ."
        )


def remote_folder(address: str) -> epath.Path:
    """The folder at an address; nothing is read yet.

    Raises:
      UserError: not the address of a folder in a Google Cloud Storage bucket.
    """
    bucket, _, folder = address.removeprefix("gs://").partition("/")
    if not address.startswith("gs://") or not bucket or not folder.strip("/"):
        raise UserError(
            f"workdir must be gs://BUCKET/FOLDER or a local folder; got {address}. "
            "Runs write to no other kind of address"
        )

    # Orbax and other hosts write there too, so gcsfs must not remember what it once listed.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(address.rstrip("/"))


def has_run(folder: epath.Path) -> bool:
    """Whether there is a run at an address.

    Raises:
      TimeoutError: no answer. Without a network a client would try again for a minute.
      Exception: whatever the client raises; a package, the bucket or a right is missing.
    """
    answers: queue.Queue[bool | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answers.put((folder / "config.json").exists())
        except Exception as error:
            answers.put(error)

    # A daemon, so that a question that was given up does not keep the process from ending.
    threading.Thread(target=ask, name="first contact", daemon=True).start()
    try:
        answer = answers.get(timeout=CONTACT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {CONTACT_SECONDS:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class RemoteWorkdir:
    """The folder of a run at an address, and its local copy.

    Args:
      folder: from ``remote_folder``.

    Attributes:
      folder: the remote folder.
      local: the local copy; it is empty at first and deleted when the process ends.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self._temporary = tempfile.TemporaryDirectory(prefix="corl_run_")
        self.local = Path(self._temporary.name)
        # File name to the stamp of its local copy when both were equal.
        self._synced: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Downloads every file except the checkpoints."""
        # Files that are equal now are not uploaded again until they change.
        for name, path in _list_files(self.folder):
            local_path = self.local / name
            local_path.parent.mkdir(parents=True, exist_ok=True)
            local_path.write_bytes(path.read_bytes())
            self._synced[name] = _stamp(local_path)

    def push(self) -> None:
        """Uploads files that are new or have changed since the last copy, and removes those that are gone."""
        files = {
            str(path.relative_to(self.local)): path
            for path in self.local.rglob("*")
            if path.is_file()
        }

        # config.json comes last: where it exists, everything else does.
        for name in sorted(files, key=lambda name: (name == "config.json", name)):
            stamp = _stamp(files[name])
            is_unfinished = name.endswith(".part")
            if self._synced.get(name) != stamp and not is_unfinished:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(files[name].read_bytes())
                self._synced[name] = stamp

        # Of completions the newest steps stay alone, also in the bucket.
        for name in self._synced.keys() - files.keys():
            (self.folder / name).unlink(missing_ok=True)
            del self._synced[name]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change; a file with an equal stamp has not changed."""
    return path.stat().st_size, path.stat().st_mtime_ns


def _list_files(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, epath.Path]]:
    """All files under ``folder`` except checkpoints, with their relative names."""
    for path in folder.iterdir():
        name = prefix + path.name
        if path.is_dir():
            if name != CHECKPOINTS:
                yield from _list_files(path, name + "/")
        else:
            yield name, path
