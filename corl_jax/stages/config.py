"""Blocks of a config as frozen dataclasses, which hold the defaults and check their values.

The config is read once, when a stage is built. A key without a field, or a field without a key, is
an error that lists the names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from corl_jax.core.errors import UserError
from corl_jax.core.renamed_keys import renamed_key_hint
from corl_jax.core.runtime import DTYPES
from corl_jax.models.attention_kernels import kernels
from corl_jax.models.layers import REMAT_POLICIES
from corl_jax.models.lora import Lora

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """``config.model``.

    Attributes:
      size: a name in ``models.janus.config.SIZES``; a policy in ``init_from`` brings its own.
      compute_dtype: of activations; ``auto`` is float32 on a CPU, else bfloat16.
      param_dtype: of parameters between updates; bfloat16 keeps no float32 master copy, see
        ``param_placement.with_param_dtype``.
      remat: what the backward pass recomputes, a name in ``models.layers.REMAT_POLICIES``.
      unroll: layers per turn of the loop over layers.
      attention: a name in ``models.attention_kernels``.
    """

    size: str = "tiny"
    compute_dtype: str = "auto"
    param_dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "einsum"

    def __post_init__(self):
        check_choice("model.param_dtype", self.param_dtype, tuple(DTYPES))
        check_choice("model.remat", self.remat, tuple(REMAT_POLICIES))
        if self.unroll < 1:
            raise UserError(f"config.model.unroll must be at least 1 layer; got {self.unroll}")
        kernels.require(self.attention)


@dataclasses.dataclass(frozen=True)
class LoraConfig(Lora):
    """``config.lora``: the fields of ``models.lora.Lora``, and one more.

    Attributes:
      base_dtype: dtype of the matrices below the adapters, which are never trained.
    """

    base_dtype: str = "float32"

    def __post_init__(self):
        check_count("lora.rank", self.rank)
        if not self.alpha > 0:
            raise UserError(
                f"config.lora.alpha must be above 0; got {self.alpha}. At 0 the adapters add nothing"
            )
        if not isinstance(self.target, tuple) or not self.target:
            raise UserError(
                "config.lora.target must be a tuple of one or more patterns of kernel paths; got "
                f"{self.target!r}"
            )
        check_choice("lora.base_dtype", self.base_dtype, tuple(DTYPES))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """``config.data``: where records come from, and which of them are used.

    Attributes:
      name: ``shapes``, the embedded world, or ``records``, files of the user.
      dir: folder of the data; of ``shapes`` "" is the user's cache, of ``records`` it holds
        ``train.jsonl``.
      question_kinds: kinds of questions to keep, such as ``count``; () keeps all.
      qa_type: ``MC`` or ``OE``; "" keeps both.
      limit: number of training records to keep, the first ones; 0 keeps all.
    """

    name: str = "shapes"
    dir: str = ""
    question_kinds: tuple[str, ...] = ()
    qa_type: str = ""
    limit: int = 0

    def __post_init__(self):
        if self.name not in ("shapes", "records"):
            raise UserError(
                "config.data.name must be shapes (the embedded world) or records (files in "
                f"config.data.dir); got {self.name!r}"
            )
        if not isinstance(self.question_kinds, tuple):
            raise UserError(
                "config.data.question_kinds must be a tuple such as ('count',), or (); got "
                f"{self.question_kinds!r}"
            )


@dataclasses.dataclass(frozen=True)
class HooksConfig:
    """``config.hooks``: steps from one run of a hook to the next; 0 never runs it.

    Attributes:
      save_every: checkpoints; 0 saves at the end only.
      sample_every: sheets of sampled images.
      probe_every: rewards of held-out prompts.
      interference_every: cosine of the gradients of both tasks.
      tensorboard_every: rows of TensorBoard.
      keep_checkpoints: newest checkpoints to keep.
    """

    save_every: int = 0
    sample_every: int = 0
    probe_every: int = 0
    interference_every: int = 0
    tensorboard_every: int = 10
    keep_checkpoints: int = 2

    def __post_init__(self):
        for name, value in vars(self).items():
            check_count(f"hooks.{name}", value)
        if self.keep_checkpoints < 1:
            raise UserError(
                f"config.hooks.keep_checkpoints must be at least 1; got {self.keep_checkpoints}"
            )


@dataclasses.dataclass(frozen=True)
class EvalsConfig:
    """``config.evals``: the evaluation before and after a run, on held-out records.

    Attributes:
      num_records: held-out records; 0 skips the evaluation.
      guidance_scales: images are sampled at each of them.
      seed: of the records and of sampling.
      batch_size: records per compiled call.
    """

    num_records: int = 0
    guidance_scales: tuple[float, ...] = (1.0,)
    seed: int = 0
    batch_size: int = 64


@dataclasses.dataclass(frozen=True)
class ResumeConfig:
    """``config.resume``: how one start goes on with a run. It is no part of the run's config.

    Attributes:
      fallback: from an earlier checkpoint, where the newest one is damaged.
      accept_init_from: although a policy of ``init_from`` has changed since the run began.
      accept_data: although the training records have changed.
    """

    fallback: bool = False
    accept_init_from: bool = False
    accept_data: bool = False

    def __post_init__(self):
        for name, value in vars(self).items():
            if not isinstance(value, bool):
                raise UserError(f"config.resume.{name} must be True or False; got {value!r}")


def without_resume(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run, without what counts for one start alone."""
    return {key: value for key, value in config.items() if key != "resume"}


def read_block(cls: type[T], block: Mapping[str, Any], key: str, **derived: Any) -> T:
    """``block`` as a ``cls``.

    Args:
      cls: a dataclass.
      block: values by field name.
      key: of the block within the config, for errors.
      derived: fields that the config does not hold.

    Raises:
      UserError: unknown or missing fields.
    """
    # JSON has no tuples, so lists are read as tuples.
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_keys(block, fields - derived.keys(), key)
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in block.items()
    }
    return cls(**values, **derived)


def check_keys(block: Mapping[str, Any], expected: set[str], key: str) -> None:
    """Raises UserError unless ``config.<key>`` has exactly the keys ``expected``."""
    if unknown := sorted(block.keys() - expected):
        raise UserError(
            f"config.{key} must have the keys {', '.join(sorted(expected))}; got "
            f"{', '.join(unknown)} too{renamed_key_hint(f'{key}.{unknown[0]}')}"
        )
    if missing := sorted(expected - block.keys()):
        raise UserError(
            f"config.{key} must have the keys {', '.join(sorted(expected))}; "
            f"{', '.join(missing)} is missing"
        )


def check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises UserError unless ``value`` of ``config.<key>`` is one of ``choices``."""
    if value not in choices:
        raise UserError(f"config.{key} must be one of {', '.join(choices)}; got {value!r}")


def check_count(key: str, value: Any) -> None:
    """Raises UserError unless ``value`` of ``config.<key>`` is a whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"config.{key} must be a whole number of at least 0; got {value!r}")


def check_one_update(config: Mapping[str, Any]) -> None:
    """Refuses ``updates_per_step`` in stages that sample nothing that could be used again.

    Raises:
      UserError: it is not 1.
    """
    if config["updates_per_step"] != 1:
        raise UserError(
            "config.updates_per_step must be 1 outside reinforcement learning; got "
            f"{config['updates_per_step']}"
        )


def check_no_adapters(config: Mapping[str, Any]) -> None:
    """Refuses ``lora`` in stages that train whole parameters.

    Raises:
      UserError: its rank is not 0.
    """
    if config["lora"]["rank"]:
        raise UserError(
            "config.lora.rank must be 0 in stages that do not train a language model; got "
            f"{config['lora']['rank']}"
        )
