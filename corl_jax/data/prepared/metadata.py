"""The files that make blocks of array records a data set of TFDS."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Protocol

import tensorflow_datasets as tfds
from etils import epath

from corl_jax.data.prepared.blocks import Block, records_file
from corl_jax.data.prepared.features import DATASET_NAME, record_features

VERSION = "1.0.0"


class Split(Protocol):
    """A split whose blocks are written."""

    @property
    def name(self) -> str: ...

    @property
    def blocks(self) -> Sequence[Block]: ...


def write_metadata(folder: pathlib.Path, splits: Sequence[Split]) -> None:
    """Gives the files of all blocks their final names, and writes what TFDS reads first.

    It may be called again after it was ended in the middle.
    """
    split_infos = []
    for split in splits:
        # Blocks without a usable row are no files of the data set.
        kept = [number for number, block in enumerate(split.blocks) if block.kept]
        template = _file_names(folder, split.name)
        for shard, number in enumerate(kept):
            path = records_file(folder / split.name, number)
            if path.exists():
                path.rename(template.sharded_filepath(shard_index=shard, num_shards=len(kept)))
        for number in set(range(len(split.blocks))) - set(kept):
            records_file(folder / split.name, number).unlink(missing_ok=True)

        blocks = [split.blocks[number] for number in kept]
        split_infos.append(
            tfds.core.SplitInfo(
                name=split.name,
                shard_lengths=[block.kept for block in blocks],
                num_bytes=sum(block.size for block in blocks),
                filename_template=template,
            )
        )

    # To check the data would need TensorFlow, and every row was read a moment ago.
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=record_features(),
        split_infos=split_infos,
        filename_template=_file_names(folder, splits[0].name),
        version=VERSION,
        check_data=False,
        description="Records with pictures, captions and questions, prepared by corl_jax.",
    )


def _file_names(folder: pathlib.Path, split: str) -> tfds.core.ShardedFileTemplate:
    """Names of the files of a split, as TFDS has them."""
    return tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=DATASET_NAME,
        split=split,
        filetype_suffix="array_record",
    )
