"""The embedded world as a TFDS data set of array records. In: a folder and a split; out: a source of Records.

The data set is made on this machine at its first use, from a fixed seed and without the network; TensorFlow is not
needed. It is written beside its final folder and renamed, so that a build that was killed leaves nothing half made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import operator
import os
import pathlib
from collections.abc import Iterator
from typing import Any, SupportsIndex, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import cache_folder
from corl_jax.core.types import Record
from corl_jax.data.records import check
from corl_jax.data.shapes.examples import Split, example
from corl_jax.data.shapes.scene import SIZE

SPLITS: dict[Split, int] = {"train": 16384, "test": 2048}


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """How many records each split holds; splits of other sizes share their first records."""

    sizes: dict[Split, int] = dataclasses.field(default_factory=lambda: dict(SPLITS))

    @classmethod
    def of(cls, sizes: dict[Split, int]) -> ShapesConfig:
        """The config of these sizes, named by them."""
        name = "_".join(f"{split}{size}" for split, size in sizes.items())
        return cls(
            name=name,
            description="Coloured shapes on a grid, with captions and questions.",
            sizes=sizes,
        )


class CorlShapes(tfds.core.GeneratorBasedBuilder):
    """Pictures of one to three shapes, captions and questions; the test split's descriptions are not in train."""

    name = "corl_shapes"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [ShapesConfig.of(SPLITS)]
    code_path = None  # nothing is downloaded, so there are no checksums to look for beside the code

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            description="Coloured shapes on a grid, with captions and questions.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "prompt": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "question": tfds.features.Text(),
                    "answer": tfds.features.Text(),
                    "qa_type": tfds.features.Text(),
                    "choices": tfds.features.Sequence(tfds.features.Text()),
                    "kind": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        sizes = cast(ShapesConfig, self.builder_config).sizes
        return {split: self._generate_examples(split, size) for split, size in sizes.items()}

    def _generate_examples(self, split: Split, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            record = example(split, index)
            columns = {name: vars(record)[name] for name in self.info.features}
            yield (
                index,
                {
                    **columns,
                    "image": io.BytesIO(_png(record.image)),
                    "choices": list(record.choices),
                },
            )


class ShapesSource:
    """Records of one split, read from array records and then kept: all of train takes about 130 MB."""

    def __init__(self, rows: Any):
        self._rows = rows
        self._kept: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Record:
        at = operator.index(index)
        if not 0 <= at < len(self):
            raise IndexError(f"record {at} of {len(self)}")
        if at not in self._kept:
            self._kept[at] = self._read(at)
        return self._kept[at]

    def about(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of a record, without decoding its picture."""
        row = self._rows[index]
        return row["qa_type"].decode(), row["kind"].decode()

    def _read(self, index: int) -> Record:
        row = self._rows[index]
        text = {
            name: row[name].decode()
            for name in ("id", "prompt", "question", "answer", "qa_type", "kind")
        }
        image = np.asarray(Image.open(io.BytesIO(row["image"])))
        return check(
            Record(**text, image=image, choices=tuple(choice.decode() for choice in row["choices"]))
        )


def default_data_dir() -> pathlib.Path:
    """Where data sets are kept: ``corl_jax/data`` in the user's cache folder."""
    return cache_folder() / "data"


def source(
    data_dir: str | os.PathLike[str] | None = None,
    split: Split = "train",
    sizes: dict[Split, int] | None = None,
) -> ShapesSource:
    """The records of ``split``; builds the data set in ``data_dir`` (default: the user's cache) if it is not there.

    Raises:
      UserError: unknown split, or the folder cannot be written or read.
    """
    sizes = SPLITS if sizes is None else sizes
    if split not in sizes:
        raise UserError(f"shapes has no split {split!r}; expected one of {', '.join(sizes)}")
    folder = default_data_dir() if data_dir is None else pathlib.Path(data_dir)
    try:
        builder = _prepared(folder, sizes)
    except OSError as error:
        raise UserError(
            f"the shapes data set cannot be kept in {str(folder)!r} ({error}); choose another data_dir"
        ) from None
    return ShapesSource(
        builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    )


def _prepared(folder: pathlib.Path, sizes: dict[Split, int]) -> CorlShapes:
    config = CorlShapes.BUILDER_CONFIGS[0].name if sizes == SPLITS else ShapesConfig.of(sizes)
    builder = CorlShapes(data_dir=folder, config=config, file_format="array_record")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        if not builder.data_path.is_dir():
            raise
        builder = CorlShapes(data_dir=folder, config=config)  # another process was faster
    return builder


def _png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
