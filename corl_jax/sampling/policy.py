"""A policy to use: load it, generate images, ask it about images."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from corl_jax.core.checks.config_block import Interval, PositiveInt, Seed, check_value
from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype, set_up_jax
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import count, flatten_abstract
from corl_jax.core.types import Params, Prompts
from corl_jax.data.image_files import ImageInput, load_image
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad, truncated_rows
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import Janus, abstract, logical_axes
from corl_jax.models.language_model import decodes_separately
from corl_jax.objectives.sampling_distribution import check_sampling_params
from corl_jax.porting.policy_source import PolicySource, open_policy_source
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds

MAX_SAMPLES = 1024
"""Most images per prompt in one call, all of which are in host memory together."""

MAX_SEPARATE_LAYER_PARAMS = 5 * 10**8
"""Parameters up to which a CPU decodes layer by layer: faster, but the layers are in memory twice."""

MAX_ANSWER_TOKENS = 64
"""Longest answer unless a call says otherwise."""

Samples = Annotated[int, Interval(ge=1, le=MAX_SAMPLES), "Another seed gives other samples"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the policy wrote to a question.

    Attributes:
      text: with its tags.
      is_truncated: whether it was cut at the limit of its length.
    """

    text: str
    is_truncated: bool


@dataclasses.dataclass(frozen=True)
class Policy:
    """A unified policy on one device, or spread over several devices of this host.

    Attributes:
      cfg: sizes of the model.
      tokenizer: of its texts.
      fns: its compiled programs.
      params: parameters by path.
      rows: most samples per compiled call; long lists take several calls of one shape.
      sharder: of the mesh, or None for one device.
    """

    cfg: JanusConfig
    tokenizer: TextTokenizer
    fns: PolicyFns
    params: Params
    rows: int = 64
    sharder: Sharder | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dtype: str = "auto",
        devices: int = 1,
        *,
        data_parallel: bool = False,
    ) -> Policy:
        """Opens the shipped base, a Hugging Face folder or hub id, a work directory, or adapters of PEFT.

        Args:
          path: ``tiny`` is the shipped base. Adapters are added to the base that they name.
          dtype: of activations: ``auto`` (float32 on a CPU, else bfloat16), ``float32`` or
            ``bfloat16``.
          devices: devices of this host that share the model; they must divide its key/value heads.
          data_parallel: spreads the rows of a call over copies of the model, on all devices of all
            processes, which must then make the same calls; ``devices`` share a copy.

        Raises:
          UserError: there is no such policy, it is damaged or holds only a part of a model, or the
            devices are too few or do not divide the heads.
        """
        set_up_jax()
        sharder = _copies(devices) if data_parallel else _tensor_parallel(devices)
        source = open_policy_source(os.fspath(path))
        model = abstract_model(source.cfg, dtype)
        params = source.load_params(_param_specs(source, model, sharder))

        tokenizer = source.load_tokenizer()
        ids = SpecialTokenIds.of(tokenizer, source.cfg.text_vocab_size)
        fns = PolicyFns(nnx.split(model)[0], source.cfg, ids)
        return cls(source.cfg, tokenizer, fns, params, sharder=sharder)

    def with_dtype(self, dtype: str) -> Policy:
        """The same parameters with activations of another dtype, see ``load``."""
        graphdef = nnx.split(abstract_model(self.cfg, dtype))[0]
        return dataclasses.replace(self, fns=dataclasses.replace(self.fns, graphdef=graphdef))

    def on_devices(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which ``fns`` may be called with ``params``; methods of this class enter it."""
        return contextlib.nullcontext() if self.sharder is None else sharding_context(self.sharder)

    def generate(
        self,
        prompts: Sequence[str],
        samples: int = 4,
        seed: int = 0,
        guidance: float = 2.0,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """Samples images.

        Args:
          prompts: ``N`` of them.
          samples: ``G``, images per prompt, at most ``MAX_SAMPLES``.
          seed: the same seed, prompt and place in the list give the same images.
          guidance: scale of classifier-free guidance; 1 is none.
          temperature: 0 is greedy.

        Returns:
          uint8 ``[N, G, H, W, 3]``.

        Raises:
          UserError: a prompt that is empty or cannot be read, or a setting out of range.
        """
        return self._generate(prompts, samples, seed, guidance, temperature, length=None)

    def sample_image_tokens(
        self,
        prompts: Sequence[str],
        samples: int = 4,
        seed: int = 0,
        guidance: float = 2.0,
        temperature: float = 1.0,
        length: int | None = None,
    ) -> np.ndarray:
        """Image tokens of the images of ``generate``, or their first ``length``: int32 ``[N, G, S]``."""
        if length is not None and not 1 <= length <= self.cfg.image_tokens:
            raise UserError(
                f"length must be from 1 to {self.cfg.image_tokens}, the tokens of an image; got "
                f"{length}"
            )
        length = self.cfg.image_tokens if length is None else length
        return self._generate(prompts, samples, seed, guidance, temperature, length)

    def answer(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[str]:
        """The texts of ``sample_answers``."""
        answers = self.sample_answers(images, questions, temperature, seed, max_tokens)
        return [answer.text for answer in answers]

    def sample_answers(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        temperature: float = 0.0,
        seed: int = 0,
        max_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[Answer]:
        """Answers one question about each image.

        Args:
          images: ``N`` uint8 ``[H, W, 3]`` arrays, PIL images, files, or contents of files.
          questions: ``N`` of them.
          temperature: 0 is greedy.
          seed: of sampling.
          max_tokens: longest answer.

        Returns:
          ``N`` answers with texts as the policy wrote them, with its tags.

        Raises:
          UserError: other numbers of images and questions, an image or a question that cannot be
            read, or a setting out of range.
        """
        _check_texts(questions, "questions")
        if len(images) != len(questions):
            raise UserError(
                f"there must be one image per question; got {len(images)} images and "
                f"{len(questions)} questions"
            )
        check_sampling_params(guidance_scale=1.0, temperature=temperature)
        check_value("max_tokens", max_tokens, PositiveInt)
        check_value("seed", seed, Seed)

        # On the host: images to the vision tower's size, questions to token ids.
        pixels = np.stack([preprocess(load_image(image), self.cfg.image_size) for image in images])
        ids = [
            self.tokenizer.question_prompt(question, self.cfg.image_tokens)
            for question in questions
        ]
        self._check_length(ids, max_tokens, "an answer")
        prompts = Prompts(*left_pad(ids, self.tokenizer.pad_id), pixels)
        sampling = self.fns.sampling_params("text", temperature=temperature)

        # On the device: calls of one shape, with a key per question.
        answers: list[Answer] = []
        for rows, num_rows in batch_rows(len(ids), batch_size(len(ids), self.rows)):
            keys = prompt_keys(int(seed), "policy/answer", rows, 1)
            with self.on_devices():
                rollout = self.fns.sample_text(
                    self.params, take(prompts, rows), keys, sampling, max_tokens
                )
            tokens = np.asarray(rollout.tokens)[:num_rows, 0]
            truncated = truncated_rows(tokens, self.tokenizer.eos_id)
            answers += [
                Answer(self.tokenizer.decode(row), bool(is_truncated))
                for row, is_truncated in zip(tokens, truncated, strict=True)
            ]
        return answers

    def _generate(
        self,
        prompts: Sequence[str],
        samples: int,
        seed: int,
        guidance: float,
        temperature: float,
        length: int | None,
    ) -> np.ndarray:
        """Pixels of all prompts, or where ``length`` is given so many image tokens."""
        _check_texts(prompts, "prompts")
        check_value("samples", samples, Samples)
        check_value("seed", seed, Seed)
        check_sampling_params(guidance_scale=guidance, temperature=temperature)

        ids = [self.tokenizer.image_generation_prompt(prompt) for prompt in prompts]
        self._check_length(ids, self.cfg.image_tokens, "an image")
        batch = Prompts(*left_pad(ids, self.tokenizer.pad_id))
        sampling = self.fns.sampling_params("image", guidance=guidance, temperature=temperature)
        guided = guidance != 1

        # Long lists take several calls of one shape, and so do many samples of a prompt.
        parts = []
        size = batch_size(len(ids), max(1, self.rows // samples))
        for rows, num_rows in batch_rows(len(ids), size):
            groups = []
            for sample_ids, num_samples in batch_rows(samples, min(samples, self.rows)):
                keys = prompt_keys(int(seed), "policy/draw", rows, sample_ids)
                args = (self.params, take(batch, rows), keys, sampling)
                with self.on_devices():
                    if length is None:
                        values = self.fns.sample_images(*args, guided=guided).pixels
                    else:
                        values = self.fns.sample_image_tokens(*args, length, guided=guided)
                groups.append(np.asarray(values)[:num_rows, :num_samples])
            parts.append(np.concatenate(groups, 1))
        return np.concatenate(parts)

    def _check_length(self, prompts: Sequence[Sequence[int]], length: int, name: str) -> None:
        """Raises UserError where ``length`` more tokens than a prompt has exceed the positions."""
        longest, limit = max(map(len, prompts)), self.cfg.decoder.max_length
        if longest + length > limit:
            raise UserError(
                f"{name} must have at most {limit - longest} tokens, the {limit} positions of the "
                f"policy without the {longest} of the prompt; got {length}"
            )


def abstract_model(cfg: JanusConfig, dtype: str) -> Janus:
    """The model without numbers, in the form that decodes fastest on this backend."""
    # Separate layers exist twice in memory, so large models keep the scan even on a CPU.
    model = abstract(cfg, dtype=compute_dtype(dtype))
    is_small = count(flatten_abstract(model)) < MAX_SEPARATE_LAYER_PARAMS
    platform = jax.default_backend()
    if platform == "cpu" and is_small:
        model = abstract(cfg, dtype=compute_dtype(dtype), unroll=cfg.decoder.depth)
    elif decodes_separately(cfg.decoder, compute_dtype(dtype), platform):
        model = abstract(cfg, dtype=compute_dtype(dtype), separate_decoding=True)
    return model


def _param_specs(
    source: PolicySource, model: Janus, sharder: Sharder | None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of every parameter; dtypes are those that the source stores."""
    axes = logical_axes(model)
    single_device = SingleDeviceSharding(jax.local_devices()[0])
    specs = {}
    for path, leaf in flatten_abstract(model).items():
        sharding = (
            single_device
            if sharder is None
            else sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        specs[path] = jax.ShapeDtypeStruct(leaf.shape, source.param_dtype(path), sharding=sharding)
    return specs


def _tensor_parallel(devices: int) -> Sharder | None:
    """A mesh that spreads heads, widths and vocabularies over devices; None for one device."""
    local = jax.local_devices()
    if not 1 <= devices <= len(local):
        raise UserError(
            f"devices must be from 1 to {len(local)}, as many as this host has "
            f"({local[0].device_kind}); got {devices}"
        )
    return None if devices == 1 else Sharder(make_mesh({"tensor": devices}, local[:devices]))


def _copies(devices: int) -> Sharder | None:
    """A mesh of copies of a model, each on so many devices; None for one device in all."""
    total = jax.device_count()
    if devices < 1 or total % devices or jax.local_device_count() % devices:
        raise UserError(
            f"devices must divide the {jax.local_device_count()} devices of a host; got {devices}"
        )
    return None if total == 1 else Sharder(make_mesh({"data": -1, "tensor": devices}))


def _check_texts(texts: Sequence[str], name: str) -> None:
    if isinstance(texts, str) or not len(texts):
        raise UserError(f"{name} must be a list of at least one text; got {texts!r}")
