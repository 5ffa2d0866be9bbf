"""Blocks of a config as typed, frozen dataclasses; read once, at the door of a stage.

In: a ConfigDict. Out: dataclasses. A field without a home, or a home without a field, is an error that lists the names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import DTYPES
from corl_jax.models.attention_kernels import kernels
from corl_jax.models.layers import REMAT_POLICIES
from corl_jax.models.lora import Lora

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """``size``: a name in ``models.janus.config.SIZES``, used from scratch; ``compute_dtype``: ``auto`` is
    float32 on CPU, else bfloat16; ``param_dtype``: of parameters between updates, see ``placement.kept``; ``remat``: a name in
    ``models.layers.REMAT_POLICIES``; ``unroll``: layers per turn of the loop; ``attention``: a name in
    ``models.attention_kernels``."""

    size: str
    compute_dtype: str
    param_dtype: str
    remat: str
    unroll: int
    attention: str

    def __post_init__(self):
        if self.param_dtype not in DTYPES:
            raise UserError(
                f"model.param_dtype={self.param_dtype!r} is unknown; expected one of {', '.join(DTYPES)}"
            )
        if self.remat not in REMAT_POLICIES:
            raise UserError(
                f"unknown remat policy {self.remat!r}; expected one of {', '.join(REMAT_POLICIES)}"
            )
        if self.unroll < 1:
            raise UserError(
                f"model.unroll={self.unroll} is no number of layers; expected 1 or more"
            )
        kernels[self.attention]


@dataclasses.dataclass(frozen=True)
class LoraSettings(Lora):
    """The adapters, and ``base_dtype``: in which the matrices under them, which never move, are held."""

    base_dtype: str = "float32"

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 0:
            raise UserError(
                f"lora.rank={self.rank!r} is no rank; expected 0 (no adapters) or a whole number above"
            )
        if not self.alpha > 0:
            raise UserError(
                f"lora.alpha={self.alpha} would silence the adapters; expected more than 0"
            )
        if not isinstance(self.target, tuple) or not self.target:
            raise UserError(
                f"lora.target={self.target!r} is no tuple of patterns; expected one or more paths of kernels"
            )
        if self.base_dtype not in DTYPES:
            raise UserError(
                f"lora.base_dtype={self.base_dtype!r} is unknown; expected one of {', '.join(DTYPES)}"
            )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Where records come from, and which of them.

    Attributes:
      name: ``shapes``, the embedded world, or ``records``, files of the user.
      dir: where it is kept, for ``shapes`` empty for the user's cache; of ``records`` the folder with ``train.jsonl``.
      questions, qa_type: kinds and type of question to keep; empty for all.
      limit: the first so many of those, in training alone; 0 for all.
    """

    name: str
    dir: str
    questions: tuple[str, ...]
    qa_type: str
    limit: int

    def __post_init__(self):
        if self.name not in ("shapes", "records"):
            raise UserError(
                f"unknown data set {self.name!r}; expected shapes, the embedded world, or records, files in data.dir"
            )
        if not isinstance(self.questions, tuple):
            raise UserError(
                f"data.questions={self.questions!r} is no tuple; expected for example ('count',), or ()"
            )


@dataclasses.dataclass(frozen=True)
class HookSettings:
    """Steps between checkpoints, sample sheets, probes of held-out prompts, comparisons of the tasks' gradients,
    TensorBoard rows; 0 for never (checkpoints: at the end only)."""

    save_every: int
    sample_every: int
    probe_every: int
    interference_every: int
    tensorboard_every: int
    keep: int

    def __post_init__(self):
        for name, least in (
            ("save_every", 0),
            ("sample_every", 0),
            ("probe_every", 0),
            ("interference_every", 0),
            ("tensorboard_every", 0),
            ("keep", 1),
        ):
            if vars(self)[name] < least:
                raise UserError(
                    f"hooks.{name}={vars(self)[name]} is out of range; expected {least} or more"
                )


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Evaluation before and after: ``n`` held-out records, pictures at every guidance in ``guidances``, its own seed.

    ``batch``: records per compiled call. ``n=0`` skips evaluation.
    """

    n: int
    guidances: tuple[float, ...]
    seed: int
    batch: int


def block(cls: type[T], raw: Mapping[str, Any], name: str, **derived: Any) -> T:
    """``raw`` as a ``cls``.

    Args:
      cls: a dataclass.
      raw: block of the config.
      name: of the block, for errors.
      derived: fields that the config does not hold.

    Raises:
      UserError: unknown or missing fields.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    } | derived
    if unknown := sorted(values.keys() - fields):
        raise UserError(
            f"config.{name} has unknown fields {', '.join(unknown)}; expected {', '.join(sorted(fields))}"
        )
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"config.{name}: {error}; expected {', '.join(sorted(fields))}") from None


def one_update(config: Mapping[str, Any]) -> None:
    """Refuses ``updates_per_step`` where nothing is sampled, so that there is nothing to use twice.

    Raises:
      UserError: it is not 1.
    """
    if config["updates_per_step"] != 1:
        raise UserError(
            f"config.updates_per_step={config['updates_per_step']} is for reinforcement learning; here it must be 1"
        )


def no_adapters(config: Mapping[str, Any]) -> None:
    """Refuses ``lora`` where whole parameters are trained.

    Raises:
      UserError: its rank is not 0.
    """
    if config["lora"]["rank"]:
        raise UserError(
            f"config.lora.rank={config['lora']['rank']} is for stages that train a language model; here it must be 0"
        )
