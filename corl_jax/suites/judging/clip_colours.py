"""Colours of objects by CLIP on crops, as GenEval tells them.

In: a picture and boxes. Out: one of ten colours for each. The facts are those of
``color_classification`` in geneval's ``evaluate_images.py``: three texts per colour and class, the
mean of their directions, and the colour whose direction is nearest to that of the crop. There the
surroundings of an object are grey, by the mask of its detector; boxes have no mask, so here they are
part of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.clip.text_image import normalize, resize_and_crop
from corl_jax.reward_models.clip.tokenizer import ClipTokenizer
from corl_jax.suites.generation.geneval_prompts import COLOURS
from corl_jax.suites.judging.geneval_detections import Box, Detection

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)


class ClipColours:
    """Names the colours of objects with a CLIP."""

    def __init__(self, model: LoadedModel, sharder: Sharder):
        """Reads the tokenizer; nothing is compiled yet.

        Args:
          model: loaded as ``reward_models.clip.weights.CLIP``; GenEval uses ViT-L/14 of OpenAI.
          sharder: the mesh that the model is on.

        Raises:
          UserError: the folder's tokenizer is missing, damaged, or of another model.
        """
        self._params = model.params
        self._sharder = sharder
        self._image_size = model.cfg.image_size
        self._tokenizer = ClipTokenizer.from_model(model)
        self._directions: dict[str, np.ndarray] = {}

        @jax.jit
        def embed_images(params: Params, images: jax.Array) -> jax.Array:
            return bind(model.graphdef, params).image(normalize(images))

        @jax.jit
        def embed_texts(params: Params, ids: jax.Array) -> jax.Array:
            return bind(model.graphdef, params).text(ids)

        self._embed_images, self._embed_texts = embed_images, embed_texts

    def colours(
        self, picture: UInt8[np.ndarray, "H W 3"], objects: Sequence[Detection]
    ) -> list[str]:
        """The colour of each object, by what is in its box."""
        if not objects:
            return []
        crops = [resize_and_crop(crop(picture, one.box), self._image_size) for one in objects]
        features = map_in_batches(
            self._sharder,
            lambda images: self._embed_images(self._params, images),
            [np.stack(crops)],
        )
        return [
            COLOURS[int(np.argmax(self._colour_directions(one.name) @ feature))]
            for one, feature in zip(objects, features, strict=True)
        ]

    def _colour_directions(self, name: str) -> Float[np.ndarray, "10 F"]:
        """The direction of each colour for objects of one class."""
        if name not in self._directions:
            texts = [
                template.format(colour=colour, name=name)
                for colour in COLOURS
                for template in TEMPLATES
            ]
            features = map_in_batches(
                self._sharder,
                lambda ids: self._embed_texts(self._params, ids),
                [self._tokenizer(texts)],
            )
            unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
            means = unit.reshape(len(COLOURS), len(TEMPLATES), -1).mean(1)
            self._directions[name] = means / np.linalg.norm(means, axis=-1, keepdims=True)
        return self._directions[name]


def crop(picture: UInt8[np.ndarray, "H W 3"], box: Box) -> UInt8[np.ndarray, "h w 3"]:
    """What is in a box, of which at least one pixel is taken, as far as it is in the picture."""
    height, width = picture.shape[:2]
    left, top = (
        min(max(round(v), 0), size - 1) for v, size in zip(box, (width, height), strict=False)
    )
    right = max(left + 1, min(round(box[2]), width))
    bottom = max(top + 1, min(round(box[3]), height))
    return picture[top:bottom, left:right]
