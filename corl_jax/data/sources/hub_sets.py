"""Data sets of Hugging Face: by hub id, as folders of ``save_to_disk``, as Parquet and Arrow files.

The library ``datasets`` reads them (``pip install 'corl_jax[data]'``). Pictures are not decoded, so
that their bytes are those of the files that someone once uploaded.
"""

from __future__ import annotations

import pathlib
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.records import ADD_OR_DIVIDE
from corl_jax.data.sources.hub_tables import HubTable

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")

FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
"""Suffix of a file to the name of its reader in ``datasets``."""


def open_files(
    files: Sequence[pathlib.Path], label: str, split: str, folder: pathlib.Path, cache_dir: str
) -> HubTable:
    """Parquet or Arrow files. ``datasets`` keeps a copy of them in its cache, for random access."""
    datasets, reader = _library(), FORMATS[files[0].suffix]
    data = _call(
        lambda: datasets.load_dataset(
            reader,
            data_files={"train": [str(path) for path in files]},
            split="train",
            cache_dir=cache_dir or None,
        ),
        f"{label} cannot be read as {reader.title()}",
        "check or replace the file",
    )
    return HubTable(_undecoded(data), label, split, folder)


def open_saved(folder: pathlib.Path, label: str, split: str) -> HubTable:
    """One data set that ``datasets.save_to_disk`` has written."""
    datasets = _library()
    data = _call(
        lambda: datasets.load_from_disk(str(folder)),
        f"{label} cannot be read as a folder of datasets.save_to_disk",
        "write it again",
    )
    return HubTable(_undecoded(data), label, split, folder)


def open_hub(name: str, label: str, splits: Sequence[str], cache_dir: str) -> HubTable:
    """A data set of the hub, ``OWNER/NAME[/CONFIG][@REVISION]``; the first of ``splits`` it has.

    Raises:
      UserError: it cannot be downloaded, or has none of the splits.
    """
    datasets = _library()
    path, _, revision = name.partition("@")
    parts = path.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f"config.data.source must be hub:OWNER/NAME, hub:OWNER/NAME/CONFIG, perhaps with "
            f"@REVISION; got 'hub:{name}'"
        )
    options = {
        "path": "/".join(parts[:2]),
        "name": parts[2] if len(parts) == 3 else None,
        "revision": revision or None,
        "cache_dir": cache_dir or None,
    }
    failure, advice = f"{label} cannot be loaded from the hub", "check its name and the network"
    loaded = _call(lambda: datasets.load_dataset(**options), failure, advice)
    for split in splits:
        if split in loaded:
            return HubTable(_undecoded(loaded[split]), label, splits[0], pathlib.Path())
    raise UserError(
        f"{label} must have a split {' or '.join(splits)}; it has {', '.join(loaded)}. Take another "
        f"data set, {ADD_OR_DIVIDE}"
    )


def _undecoded(data: datasets.Dataset) -> datasets.Dataset:
    """``data`` without the decoders of its pictures."""
    datasets = _library()
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        # Lists of pictures become lists of objects.
        if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            data = data.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return data


def _library() -> types.ModuleType:
    """The library ``datasets``.

    Raises:
      UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "Parquet, Arrow and data sets of the hub need the library datasets, which is not "
            "installed; pip install 'corl_jax[data]'"
        ) from None
    return datasets


def _call(function: Callable[[], T], failure: str, advice: str) -> T:
    """The result of a call of ``datasets``, which raises nearly everything.

    Raises:
      UserError: it failed; the text begins with ``failure``.
    """
    try:
        return function()
    except Exception as error:
        # The library wraps what went wrong into errors about its cache.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{failure} ({describe_error(cause)}); {advice}") from None
