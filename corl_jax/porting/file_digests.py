"""What tells the files of one policy from those of another."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Collection

from corl_jax.engine.checkpoints.manifest import json_digest


def files_digest(files: Collection[pathlib.Path]) -> str:
    """Hash of the names and the bytes of some files."""

    def digest(file: pathlib.Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    # Hashing lets other threads run.
    ordered = sorted(files)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, ordered))
    return json_digest(dict(zip((file.name for file in ordered), digests, strict=True)))
