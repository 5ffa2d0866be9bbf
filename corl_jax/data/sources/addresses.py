"""Opens records by their address: the one door to every data set."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.data.prepared.source import PreparedSource, is_prepared
from corl_jax.data.shapes import builder
from corl_jax.data.shapes.examples import Split
from corl_jax.data.sources.base import DescribedSource
from corl_jax.data.sources.hub_sets import open_hub
from corl_jax.data.sources.layouts import SPLIT_NAMES, open_path
from corl_jax.data.sources.presets import PRESETS, Preset
from corl_jax.data.sources.table import Table, TableSource
from corl_jax.data.sources.tfds_tables import open_tfds

SHAPES = "shapes"
"""Address of the embedded world."""
HUB, TFDS = "hub:", "tfds:"


def open_source(
    address: str, split: Split, columns: Mapping[str, str] = {}, *, cache_dir: str = ""
) -> DescribedSource:
    """The records of ``split`` at ``address``.

    Args:
      address: ``shapes``, a name of ``PRESETS``, ``PRESET:PATH``, ``hub:OWNER/NAME``,
        ``tfds:NAME``, or a path: a prepared set, or a folder or a file of one of the layouts of
        ``layouts``.
      split: ``train`` or ``test``.
      columns: field of a record to the column that has it; "" is that of the preset, or the usual
        one.
      cache_dir: folder for data sets that are built or downloaded; "" is the user's cache.

    Raises:
      UserError: there are no such records, or they cannot be read. Single rows that cannot be are
        in ``unreadable``.
    """
    if address == SHAPES:
        return builder.source(cache_dir or None, split)
    if address and is_prepared(user_path(address, "config.data.source")):
        return PreparedSource(user_path(address, "config.data.source"), split)

    preset, path = _read_preset(address)
    table = _open_table(path, split, cache_dir)
    requested = {field: column for field, column in columns.items() if column}
    if preset is None or not preset.columns:
        return TableSource(table, requested)
    requested = {**preset.columns_in(table.columns), **requested}
    return TableSource(table, requested, with_usual_columns=False)


def _read_preset(address: str) -> tuple[Preset | None, str]:
    """The preset that an address names, if any, and the address without it.

    Raises:
      UserError: a preset that is nowhere but in files of the user.
    """
    name, _, path = address.partition(":")
    if name not in PRESETS:
        return None, address
    if path:
        return PRESETS[name], path
    if not PRESETS[name].hub:
        raise UserError(
            f"config.data.source must say where the files of {name} are, for example "
            f"{name}:data/{name}; got {address!r}"
        )
    return PRESETS[name], HUB + PRESETS[name].hub


def _open_table(address: str, split: Split, cache_dir: str) -> Table:
    splits = SPLIT_NAMES[split]
    if address.startswith(HUB):
        name = address.removeprefix(HUB)
        return open_hub(name, f"the data set {name!r}", splits, cache_dir)
    if address.startswith(TFDS):
        return open_tfds(address.removeprefix(TFDS), splits, cache_dir)

    # An empty name is refused here, since it would mean the current folder.
    path = user_path(address, "config.data.source") if address else pathlib.Path()
    if not address or not path.exists():
        raise UserError(
            "config.data.source must be a folder or a file that exists, shapes, hub:OWNER/NAME, "
            f"tfds:NAME, or one of {', '.join(PRESETS)}; got {address!r}. Correct it "
            "(docs/data.md lists the layouts)"
        )
    return open_path(path, split, cache_dir)
