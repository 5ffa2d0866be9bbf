"""New folders that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from corl_jax.core.checks.paths import check_writable
from corl_jax.core.errors import UserError


def check_new_folder(out: pathlib.Path) -> None:
    """Raises UserError if ``out`` is a file or a folder that is not empty, or cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{str(out)!r} exists and is not empty; choose another folder or delete it first"
        )
    check_writable(out, "the new folder")


@contextlib.contextmanager
def new_folder(out: pathlib.Path, nbytes: int) -> Iterator[pathlib.Path]:
    """A temporary folder to write into, which is renamed to ``out`` at the end.

    Args:
      out: new folder, or an empty one; see ``check_new_folder``.
      nbytes: that its largest files take together.

    Raises:
      UserError: the disk is too small, or writing fails.
    """
    # The temporary folder is next to ``out``, as renaming works within one file system only.
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_disk_space(out.parent, nbytes)
        unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"{str(out)!r} cannot be written ({error}); choose another folder"
        ) from None

    try:
        yield unfinished

        # mkdtemp makes a folder that only this user may read.
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)

    # Whatever happens, no unfinished folder stays.
    except OSError as error:
        shutil.rmtree(unfinished)
        raise UserError(
            f"{str(out)!r} could not be written ({error}); the unfinished folder was deleted; "
            "free some disk space or choose another folder"
        ) from None
    except BaseException:  # also when the user interrupts
        shutil.rmtree(unfinished)
        raise


def write_files(files: Mapping[str, bytes], folder: pathlib.Path) -> None:
    """Writes files by their path in ``folder``, and the folders that they lie in."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _check_disk_space(folder: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the weights take {needed / 1e9:.1f} GB and {str(folder)!r} has {free / 1e9:.1f} GB "
            "free; free some disk space or choose another --out"
        )
