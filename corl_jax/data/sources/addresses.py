"""Opens records by their address: the one door to every data set."""

from __future__ import annotations

from collections.abc import Mapping

from corl_jax.data.record_folder import FolderSource
from corl_jax.data.shapes import builder
from corl_jax.data.shapes.examples import Split
from corl_jax.data.sources.base import DescribedSource

SHAPES = "shapes"
"""Address of the embedded world."""


def open_source(
    address: str, split: Split, columns: Mapping[str, str] = {}, *, cache_dir: str = ""
) -> DescribedSource:
    """The records of ``split`` at ``address``.

    Args:
      address: ``shapes``, or a folder.
      split: ``train`` or ``test``.
      columns: field of a record to the column that has it; "" is the usual one.
      cache_dir: folder for data sets that are built or downloaded; "" is the user's cache.

    Raises:
      UserError: there are no such records, or they cannot be read.
    """
    if address == SHAPES:
        return builder.source(cache_dir or None, split)
    return FolderSource(address, split)
