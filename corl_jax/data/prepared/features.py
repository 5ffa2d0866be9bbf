"""Records as examples of TFDS and back. The picture of a record stays the bytes that it came in."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from corl_jax.core.types import Record

DATASET_NAME = "corl_records"
"""What TFDS calls a prepared set; the names of its files begin so."""
TEXT_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Record)
    if field.name not in ("image", "choices", "template")
)
"""Fields of a ``Record`` that are texts of the data; the template of a question is the run's."""


@functools.cache
def record_features() -> tfds.features.FeaturesDict:
    """The features: those of ``Record`` under its names. ``image`` is empty where there is none."""
    features: dict[str, Any] = {name: tfds.features.Text() for name in TEXT_FIELDS}
    features["image"] = tfds.features.Image(shape=(None, None, 3))
    features["choices"] = tfds.features.Sequence(tfds.features.Text())
    return tfds.features.FeaturesDict(features)


def example_writer() -> Callable[[Record, bytes], bytes]:
    """A function from a record and the bytes of its picture to a serialized example."""
    features = record_features()
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialize(record: Record, image_bytes: bytes) -> bytes:
        columns: dict[str, Any] = {name: vars(record)[name] for name in TEXT_FIELDS}
        # TFDS stores bytes that are encoded already as they are.
        columns["image"] = io.BytesIO(image_bytes)
        columns["choices"] = list(record.choices)
        return serializer.serialize_example(features.encode_example(columns))

    return serialize


def read_example(columns: Mapping[str, Any], image: np.ndarray | None) -> Record:
    """The record of an example with ``image`` as its picture; TFDS returns texts as bytes."""
    texts = {name: columns[name].decode() for name in TEXT_FIELDS}
    choices = tuple(choice.decode() for choice in columns["choices"])
    return Record(**texts, image=image, choices=choices)
