"""A policy to use: load it, let it draw, ask it. In: prompts, pictures, questions; out: pictures and texts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype, set_up_jax
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import count, flatten_abstract
from corl_jax.core.types import Params, Prompts
from corl_jax.data.images import load_image, preprocess
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import abstract, logical_axes
from corl_jax.objectives.sampling_distribution import check_sampling_params
from corl_jax.porting.policy_source import open_source
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds

SMALL = 5 * 10**8
"""Parameters up to which a CPU decodes layer by layer: faster, but the layers lie in memory twice meanwhile."""

Picture = np.ndarray | Image.Image | str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A unified policy, on one device or with its heads and widths spread over several of this host's.

    Attributes:
      cfg: sizes.
      tokenizer: of its texts.
      sampler: compiled programs.
      params: parameters by path.
      rows: samples per compiled call, at most; long lists take several calls of one shape.
      sharder: of the devices where there are several.
    """

    cfg: JanusConfig
    tokenizer: TextTokenizer
    sampler: PolicyFns
    params: Params
    rows: int = 64
    sharder: Sharder | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], dtype: str = "auto", devices: int = 1) -> Policy:
        """Opens ``tiny`` (the shipped base), a Hugging Face folder or hub id, or a work directory.

        Args:
          path: which.
          dtype: of activations: ``auto`` (float32 on CPU, else bfloat16), ``float32`` or ``bfloat16``.
          devices: how many of this host's share it; the key/value heads must divide by them.

        Raises:
          UserError: nothing of the kind is there, or it is damaged or holds only a part of a model; or there are fewer
            devices, or heads that do not divide.
        """
        set_up_jax()
        sharder = _over(devices)
        source = open_source(os.fspath(path))
        shape = abstract(source.cfg, dtype=compute_dtype(dtype))
        if jax.default_backend() == "cpu" and count(flatten_abstract(shape)) < SMALL:
            shape = abstract(
                source.cfg, dtype=compute_dtype(dtype), unroll=source.cfg.decoder.depth
            )
        one, axes = SingleDeviceSharding(jax.local_devices()[0]), logical_axes(shape)
        wanted = {
            name: jax.ShapeDtypeStruct(
                leaf.shape,
                source.held(name),
                sharding=one
                if sharder is None
                else sharder.checked_sharding(leaf.shape, axes[name], name),
            )
            for name, leaf in flatten_abstract(shape).items()
        }
        tokenizer = source.load_tokenizer()
        ids = SpecialTokenIds.of(tokenizer, source.cfg.decoder.vocab_size)
        sampler = PolicyFns(nnx.split(shape)[0], source.cfg, ids)
        return cls(source.cfg, tokenizer, sampler, source.params(wanted), sharder=sharder)

    def on_devices(self) -> contextlib.AbstractContextManager[Any]:
        """Inside it ``sampler`` may be called with ``params``; the methods of this class need it not."""
        return contextlib.nullcontext() if self.sharder is None else sharding_context(self.sharder)

    def generate(
        self,
        prompts: Sequence[str],
        samples: int = 4,
        seed: int = 0,
        guidance: float = 2.0,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Draws ``samples`` pictures of every prompt.

        Args:
          prompts: ``N`` of them.
          samples: ``G``, pictures per prompt.
          seed: the same seed, prompt and place in the list give the same pictures.
          guidance: weight of classifier-free guidance; 1 is none.
          temperature: 0 is greedy.

        Returns:
          uint8 ``[N, G, H, W, 3]``.

        Raises:
          UserError: an empty or unreadable prompt, or a setting out of range.
        """
        return self._draw(prompts, samples, seed, guidance, temperature)

    def sample_image_tokens(
        self,
        prompts: Sequence[str],
        samples: int = 4,
        seed: int = 0,
        guidance: float = 2.0,
        temperature: float = 1.0,
        length: int | None = None,
    ) -> np.ndarray:
        """Image tokens of the pictures that ``generate`` draws, or their first ``length``: int32 ``[N, G, S]``."""
        if length is not None and not 1 <= length <= self.cfg.image_tokens:
            raise UserError(
                f"length={length} is no part of a picture of {self.cfg.image_tokens} image tokens"
            )
        return self._draw(
            prompts, samples, seed, guidance, temperature, length or self.cfg.image_tokens
        )

    def answer(
        self,
        images: Sequence[Picture],
        questions: Sequence[str],
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = 64,
    ) -> list[str]:
        """Answers one question about each picture.

        Args:
          images: ``N`` uint8 ``[H, W, 3]`` arrays, PIL images or files.
          questions: ``N`` of them.
          temperature: 0 is greedy.
          seed: of sampling.
          max_tokens: longest answer.

        Returns:
          ``N`` texts as the policy wrote them, with its tags.

        Raises:
          UserError: counts that differ, an image that is none, an empty or unreadable question, a setting out of range.
        """
        _listed(questions, "questions")
        if len(images) != len(questions):
            raise UserError(
                f"{len(images)} images and {len(questions)} questions; expected one image per question"
            )
        check_sampling_params(guidance=1.0, temperature=temperature)
        _counted(max_tokens, "max_tokens")
        size = self.cfg.vision.image_size
        pictures = np.stack([preprocess(as_picture(image), size) for image in images])
        ids = [
            self.tokenizer.question_prompt(question, self.cfg.image_tokens)
            for question in questions
        ]
        prompts = Prompts(*left_pad(ids, self.tokenizer.pad_id), pictures)
        sampling = self.sampler.sampling("text", temperature=temperature)
        texts: list[str] = []
        for rows, real in batch_rows(len(ids), batch_size(len(ids), self.rows)):
            keys = prompt_keys(_whole(seed), "policy/answer", rows, 1)
            with self.on_devices():
                out = self.sampler.sample_text(
                    self.params, take(prompts, rows), keys, sampling, max_tokens
                )
            texts += [self.tokenizer.decode(row) for row in np.asarray(out.tokens)[:real, 0]]
        return texts

    def _draw(
        self,
        prompts: Sequence[str],
        samples: int,
        seed: int,
        guidance: float,
        temperature: float,
        length: int = 0,
    ) -> np.ndarray:
        """Pixels of all prompts, or ``length`` image tokens where that is not 0, on the host."""
        _listed(prompts, "prompts")
        _counted(samples, "samples")
        check_sampling_params(guidance=guidance, temperature=temperature)
        ids = [self.tokenizer.drawing_prompt(prompt) for prompt in prompts]
        asked = Prompts(*left_pad(ids, self.tokenizer.pad_id))
        sampling = self.sampler.sampling("image", guidance=guidance, temperature=temperature)
        parts = []
        for rows, real in batch_rows(len(ids), batch_size(len(ids), max(1, self.rows // samples))):
            keys = prompt_keys(_whole(seed), "policy/draw", rows, samples)
            given = (self.params, take(asked, rows), keys, sampling)
            with self.on_devices():
                if length:
                    out = self.sampler.codes(*given, length, guided=guidance != 1)
                else:
                    out = self.sampler.sample_images(*given, guided=guidance != 1).pixels
            parts.append(np.asarray(out)[:real])
        return np.concatenate(parts)


def _over(devices: int) -> Sharder | None:
    """Heads, widths and vocabularies over so many of this host's devices; None for one."""
    found = jax.local_devices()
    if not 1 <= devices <= len(found):
        raise UserError(
            f"devices={devices}, and this host has {len(found)} ({found[0].device_kind}); expected 1 to {len(found)}"
        )
    return None if devices == 1 else Sharder(make_mesh({"tensor": devices}, found[:devices]))


def _listed(texts: Sequence[str], what: str) -> None:
    if isinstance(texts, str) or not len(texts):
        raise UserError(f"{what}={texts!r}; expected a list of at least one text")


def _counted(value: int, what: str) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f"{what}={value!r}; expected a whole number of at least 1")


def _whole(seed: int) -> int:
    if not isinstance(seed, int | np.integer):
        raise UserError(f"seed={seed!r}; expected a whole number")
    return int(seed)


def as_picture(image: Picture) -> np.ndarray | Image.Image:
    """A picture in memory."""
    if isinstance(image, str | os.PathLike):
        return load_image(image)
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(
            f"an image is {array.dtype} {list(array.shape)}; expected uint8 [height, width, 3]"
        )
    return array
