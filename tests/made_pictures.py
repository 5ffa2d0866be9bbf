"""A TFDS data set of pictures in one colour, ``tfds:corl_jax_made_pictures``."""

from __future__ import annotations

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def picture(level: int, format_: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(buffer, format_)
    return buffer.getvalue()


class CorlJaxMadePictures(tfds.core.GeneratorBasedBuilder):
    """A data set with classes, nested captions and pictures."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
        captions = tfds.features.Sequence({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "captions": captions,
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, n):
        for i in range(n):
            captions = [{"text": f"caption {i}"}, {"text": "another"}]
            image = io.BytesIO(picture(40 * i))
            yield i, {"image": image, "captions": captions, "label": i % 2}
