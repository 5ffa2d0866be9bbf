"""Finds out how the files of a data set lie in a folder, and opens those of a split.

The first of these that a folder has counts: ``train.jsonl`` (or ``.json``, ``.csv``); a folder that
``datasets.save_to_disk`` wrote; Parquet or Arrow files with the split in their name or folder;
``metadata.jsonl`` (or ``.csv``) of an image folder; text files with prompts, perhaps beside
pictures.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.records import ADD_OR_DIVIDE
from corl_jax.data.shapes.examples import Split
from corl_jax.data.sources.hub_sets import FORMATS, open_files, open_saved
from corl_jax.data.sources.json_tables import SUFFIXES, JsonTable
from corl_jax.data.sources.plain_tables import PICTURE_SUFFIXES, open_captions, open_prompt_list
from corl_jax.data.sources.table import Table

SPLIT_NAMES: Mapping[Split, Sequence[str]] = {
    "train": ("train", "training"),
    "test": ("test", "validation", "valid", "val", "dev"),
}
"""Split to its names, of which the first that there is counts."""


def open_path(path: pathlib.Path, split: Split, cache_dir: str) -> Table:
    """The rows of a split in a folder or a file.

    Raises:
      UserError: no known layout, or no such split.
    """
    if path.is_dir():
        return _open_folder(path, split, cache_dir)
    if split != "train":
        raise _no_split(path, split, "it is one file of training records")
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return JsonTable.open(path)
    if suffix in FORMATS:
        return open_files([path], repr(str(path)), split, path.parent, cache_dir)
    if suffix == ".txt":
        return open_prompt_list(path)
    known = ", ".join((*SUFFIXES, *FORMATS, ".txt"))
    raise UserError(
        f"config.data.source must be a folder, or a file that ends in one of {known}; got "
        f"{str(path)!r}. Convert or rename it"
    )


def _open_folder(folder: pathlib.Path, split: Split, cache_dir: str) -> Table:
    label = f"the folder {str(folder)!r}"

    # Files and folders that have the split in their name.
    for name in SPLIT_NAMES[split]:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return JsonTable.open(folder / f"{name}{suffix}")
        if (folder / name / "state.json").is_file():
            return open_saved(folder / name, f"{label}, {name}", split)
        if files := _split_files(folder, name):
            return open_files(files, label, split, folder, cache_dir)
        if (folder / name).is_dir() and (table := _open_pictures(folder / name)):
            return table

    # Files of a folder without splits are for training.
    has_splits = any(_names_split(path) for path in folder.iterdir())
    if split == "train" and not has_splits:
        if (folder / "state.json").is_file():
            return open_saved(folder, label, split)
        for suffix in FORMATS:
            if files := sorted(folder.glob(f"*{suffix}")):
                return open_files(files, label, split, folder, cache_dir)
        if table := _open_pictures(folder):
            return table
        if len(files := [path for path in folder.iterdir() if path.suffix in SUFFIXES]) == 1:
            return JsonTable.open(files[0])
    raise _no_split(folder, split, _describe(folder))


def _split_files(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Files of the layouts of the hub: ``train.parquet``, ``data/train-00000-of-00002.parquet``."""
    for suffix in FORMATS:
        for pattern in (f"{name}{suffix}", f"{name}-*{suffix}", f"{name}/*{suffix}"):
            for parent in (folder, folder / "data"):
                if files := sorted(parent.glob(pattern)):
                    return files
    return []


def _open_pictures(folder: pathlib.Path) -> Table | None:
    """An image folder: with ``metadata`` that names the pictures, or with texts beside them."""
    for name in ("metadata.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            return JsonTable.open(folder / name)
    return open_captions(folder)


def _names_split(path: pathlib.Path) -> bool:
    """Whether a name begins with that of a split: ``test.jsonl``, ``val-00000-of-00001.parquet``."""
    word = path.name.split(".")[0].split("-")[0]
    return any(word in names for names in SPLIT_NAMES.values())


def _no_split(path: pathlib.Path, split: str, reason: str) -> UserError:
    advice = (
        "put the records there, one JSON object per line, or give another layout (docs/data.md)"
        if split == "train"
        else f"add them, {ADD_OR_DIVIDE}"
    )
    return UserError(
        f"config.data.source={str(path)!r} has no {split}.jsonl and no other {split} records "
        f"({reason}); {advice}"
    )


def _describe(folder: pathlib.Path) -> str:
    """What a folder has, for an error."""
    names = sorted(_shown(folder))
    if any(name.lower().endswith(PICTURE_SUFFIXES) for name in names):
        return "it has pictures without captions: write each into a file NAME.txt beside it"
    return f"it has {', '.join(names[:5]) or 'no files'}{', ...' * (len(names) > 5)}"


def _shown(folder: pathlib.Path) -> Iterator[str]:
    for path in folder.iterdir():
        if not path.name.startswith("."):
            yield path.name
