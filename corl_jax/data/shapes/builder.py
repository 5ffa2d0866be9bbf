"""The embedded world as a TFDS data set of array records.

The data set is generated on this machine at its first use, from a fixed seed and without network
access; TensorFlow is not needed. It is written next to its final folder and then renamed, so that
a build that was killed leaves no incomplete data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.runtime import cache_folder
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
from corl_jax.data.records import check_record, image_of
from corl_jax.data.shapes.examples import Split, example
from corl_jax.data.shapes.scene import SIZE

SPLITS: dict[Split, int] = {"train": 16384, "test": 2048}
"""Records of each split."""
NO_IMAGE = np.zeros((1, 1, 3), np.uint8)
"""Stands in for the image of a record whose texts alone are read."""


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """How many records each split has; a larger split starts with the records of a smaller one."""

    sizes: dict[Split, int] = dataclasses.field(default_factory=lambda: dict(SPLITS))

    @classmethod
    def for_sizes(cls, sizes: dict[Split, int]) -> ShapesConfig:
        """The config with these sizes, named after them."""
        name = "_".join(f"{split}{size}" for split, size in sizes.items())
        return cls(
            name=name,
            description="Coloured shapes on a grid, with captions and questions.",
            sizes=sizes,
        )


class CorlShapes(tfds.core.GeneratorBasedBuilder):
    """Images of one to three shapes, with captions and questions.

    The splits share no canonical caption.
    """

    name = "corl_shapes"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [ShapesConfig.for_sizes(SPLITS)]
    # Nothing is downloaded, so TFDS must not look for a checksum file next to the code.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            # Row ``i`` of a split must be example ``i``.
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
            # Features have the names of the fields of ``Record``.
            columns = {name: vars(record)[name] for name in self.info.features}
            # TFDS stores bytes that are encoded already as they are.
            columns["image"] = io.BytesIO(_encode_png(image_of(record)))
            columns["choices"] = list(record.choices)
            yield index, columns


class ShapesSource:
    """Records of one split, read from array records and cached: all of train takes about 130 MB."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        """``rows`` are the undecoded features of the data set, by position."""
        self._rows = rows
        self._cache: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        # Decoding is paid once per record, not once per epoch.
        if position not in self._cache:
            self._cache[position] = self._read(position)
        return self._cache[position]

    def text_record(self, index: int) -> Record:
        """The record at ``index`` with a black image in the place of its own."""
        return _decode(self._rows[index], NO_IMAGE)

    def fingerprint(self) -> str:
        """The version: records are a function of it and of their position."""
        return f"corl_shapes {CorlShapes.VERSION}"

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``, without decoding its image."""
        row = self._rows[index]
        return row["qa_type"].decode(), row["kind"].decode()

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Nothing, since this package wrote all rows."""
        return {}

    @property
    def has_image_files(self) -> bool:
        """Images of this package are readable."""
        return False

    def check_image(self, index: int) -> None:
        """Does nothing: images of this package are readable."""

    def image_bytes(self, index: int) -> bytes:
        """The image of the record at ``index`` as a PNG."""
        return self._rows[index]["image"]

    def _read(self, index: int) -> Record:
        row = self._rows[index]
        label = f"record {row['id'].decode()!r} of the shapes data set"
        return check_record(_decode(row, load_image(row["image"], label)))


def _decode(row: Mapping[str, Any], image: np.ndarray) -> Record:
    """The record of a row; TFDS returns texts as bytes."""
    text_columns = ("id", "prompt", "question", "answer", "qa_type", "kind")
    texts = {name: row[name].decode() for name in text_columns}
    choices = tuple(choice.decode() for choice in row["choices"])
    return Record(**texts, image=image, choices=choices)


def default_data_dir() -> pathlib.Path:
    """The folder of data sets: ``corl_jax/data`` in the user's cache folder."""
    return cache_folder() / "data"


def source(
    data_dir: str | os.PathLike[str] | None = None,
    split: Split = "train",
    sizes: dict[Split, int] | None = None,
) -> ShapesSource:
    """The records of ``split``. Builds the data set if the folder does not have it.

    Args:
      data_dir: folder of data sets; the default is ``default_data_dir``.
      split: ``train`` or ``test``.
      sizes: records of each split; the default is ``SPLITS``.

    Raises:
      UserError: the split does not exist, or the folder cannot be written or read.
    """
    sizes = SPLITS if sizes is None else sizes
    if split not in sizes:
        raise UserError(f"the split of shapes must be one of {', '.join(sizes)}; got {split!r}")

    folder = default_data_dir() if data_dir is None else user_path(data_dir, "data_dir")
    try:
        builder = _prepare_builder(folder, sizes)
    except OSError as error:
        raise UserError(
            f"the shapes data set cannot be stored in {str(folder)!r} ({error}); "
            "choose another data_dir"
        ) from None

    # Images stay PNG bytes here; ``ShapesSource`` decodes those that are indexed.
    decoders = {"image": tfds.decode.SkipDecoding()}
    return ShapesSource(builder.as_data_source(split=split, decoders=decoders))


def _prepare_builder(folder: pathlib.Path, sizes: dict[Split, int]) -> CorlShapes:
    """The builder of a data set that is in ``folder``, built now if it was not."""
    # The default sizes have a fixed name; other sizes get a folder of their own.
    default_config = CorlShapes.BUILDER_CONFIGS[0].name
    config = default_config if sizes == SPLITS else ShapesConfig.for_sizes(sizes)
    builder = CorlShapes(data_dir=folder, config=config, file_format="array_record")

    try:
        # TFDS prints about its progress; standard output belongs to the command.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        if not builder.data_path.is_dir():
            raise
        # Another process built it first; a new builder reads what that process wrote.
        builder = CorlShapes(data_dir=folder, config=config)
    return builder


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
