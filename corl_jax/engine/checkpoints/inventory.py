"""What makes a step folder complete: all its files are on the disk, and a list of them is beside.

In: a folder that was just written, or one to read. Out: the inventory ``files.json``, and what is
missing from the folder or cut short. Also here: the error for a damaged checkpoint.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from etils import epath

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json
from corl_jax.core.errors import UserError
from corl_jax.core.files import name_write_errors, sync, write_atomically

# Path of the inventory inside a step folder: name of every file to its size and CRC-32.
INVENTORY_FILE = "files.json"

# Larger files hold arrays, which the digests in the manifest cover: they are read once only. In
# small ones damage is found before a library reads them, which could end in a page of tracebacks.
MAX_CHECKSUM_BYTES = 2**26

# Orbax marks what it has finished with such a file, whose text is the full path of its folder.
MARKER_FILE = "commit_success.txt"


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was written.

    Attributes:
      reason: what differs.
    """

    def __init__(self, folder: Path | epath.Path, reason: str, advice: str = "choose another step"):
        super().__init__(f"checkpoint {folder} is damaged ({reason}); {advice}")
        self.reason = reason


def complete_folder(folder: Path) -> None:
    """Brings all of a step folder that was just written to the disk, and adds the inventory.

    Raises:
      UserError: the disk is full or broken.
    """
    with name_write_errors(folder):
        # Who reads a checkpoint need not know where it was written.
        for marker in folder.rglob(MARKER_FILE):
            marker.write_text("complete")

        entries = {}
        for path in sorted(folder.rglob("*")):
            sync(path)
            if path.is_file():
                entries[str(path.relative_to(folder))] = _measure(path)
    write_atomically(folder / INVENTORY_FILE, json.dumps(entries, indent=1, sort_keys=True))


def check_inventory(folder: Path | epath.Path) -> None:
    """Checks that no file of a step folder is missing, cut short, or (a small one) changed.

    A folder without an inventory is taken to be complete: it is in a bucket, whose objects are
    complete or absent, or an older version was killed between two writes.

    Raises:
      DamagedCheckpoint: see above.
    """
    if not (folder / INVENTORY_FILE).exists():
        return
    for name, (size, checksum) in _read_inventory(folder).items():
        file = Path(folder) / name
        if not file.is_file():
            raise DamagedCheckpoint(folder, f"{name} is missing")
        if file.stat().st_size != size:
            raise DamagedCheckpoint(folder, f"{name} has {file.stat().st_size} bytes of {size}")
        if checksum is not None and _measure(file)[1] != checksum:
            raise DamagedCheckpoint(folder, f"{name} is not as it was written")


def _measure(path: Path) -> tuple[int, int | None]:
    """Size of a file, and its CRC-32 if it is small."""
    size = path.stat().st_size
    return size, zlib.crc32(path.read_bytes()) if size <= MAX_CHECKSUM_BYTES else None


def _read_inventory(folder: Path | epath.Path) -> dict[str, tuple[int, int | None]]:
    """Size and checksum of every file, by name."""
    try:
        content = (folder / INVENTORY_FILE).read_bytes()
        table = JsonObject.check(parse_json(content, INVENTORY_FILE), INVENTORY_FILE)
    except UserError as error:
        raise DamagedCheckpoint(folder, str(error)) from error

    # Older versions wrote sizes alone.
    entries = {}
    for name, entry in table.entries.items():
        size, checksum = entry if isinstance(entry, list) and len(entry) == 2 else (entry, None)
        # A name with NUL or of thousands of characters is none that the system can look for.
        is_name = name.isprintable() and len(name) < 256
        if not is_name or type(size) is not int or type(checksum) not in (int, type(None)):
            raise DamagedCheckpoint(folder, f"{INVENTORY_FILE} is no table of files")
        entries[name] = size, checksum
    return entries
