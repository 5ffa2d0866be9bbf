"""Blocks of a config as frozen dataclasses, which hold the defaults and check their values.

The config is read once, when a stage is built. A key without a field, or a field without a key, is
an error that lists the names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from corl_jax.core.checks.config_block import (
    INT32_MAX,
    Count,
    FieldError,
    Interval,
    Keys,
    NotEmpty,
    OneOf,
    PositiveInt,
    Seed,
    Weight,
    check_value,
    config_block,
    show,
)
from corl_jax.core.errors import UserError
from corl_jax.core.renamed_keys import renamed_key_hint
from corl_jax.core.runtime import DTYPES
from corl_jax.core.types import COLUMN_FIELDS
from corl_jax.data.question_templates import QuestionTemplateName
from corl_jax.data.records import QA_TYPES
from corl_jax.data.unusable_records import CHECK_LEVELS, ON_BAD
from corl_jax.engine.trackers.collection import TRACKERS
from corl_jax.models.attention_kernels import kernels
from corl_jax.models.janus.config import SIZES
from corl_jax.models.layers import REMAT_POLICIES
from corl_jax.models.lora import Lora

T = TypeVar("T")


@config_block
class RunConfig:
    """The keys of a config that are no blocks and that every stage has.

    Attributes:
      stage: what is trained: ``rl``, ``sft`` or ``tokenizer``, or ``pipeline`` for
        several one after the other. The config file sets it.
      seed: of everything random: order of the data, rollouts, new parameters.
      steps: length of the run. A step is one batch of prompts or records.
      microbatches: parts of a batch whose gradients are added up one after another.
      updates_per_step: updates with the same rollouts; 1 outside reinforcement learning.
      init_from: where the initial parameters come from: "" for random ones, ``tiny`` (the shipped
        base), a Hugging Face folder or id, a work directory; or several, ``PATTERN=SOURCE,...``, each
        for the parameters that its pattern names.
      progress_metrics: columns of ``metrics.jsonl`` on the progress bar.
    """

    stage: str
    seed: Seed
    steps: PositiveInt
    microbatches: PositiveInt
    updates_per_step: PositiveInt
    init_from: str
    progress_metrics: tuple[str, ...]

    def __post_init__(self):
        if self.steps * self.updates_per_step > INT32_MAX:
            raise FieldError(
                "steps",
                f"must be at most {INT32_MAX // self.updates_per_step} with "
                f"config.updates_per_step={self.updates_per_step}; got {self.steps}",
            )


@config_block
class ModelConfig:
    """``config.model``.

    Attributes:
      size: of the model; a policy in ``init_from`` brings its own.
      compute_dtype: of activations; ``auto`` is float32 on a CPU, else bfloat16.
      param_dtype: of parameters between updates; bfloat16 keeps no float32 master copy, see
        ``param_placement.with_param_dtype``.
      remat: what the backward pass computes again instead of keeping it: nothing, everything of a
        layer, or all but products of matrices.
      unroll: layers per turn of the loop over layers. 0 is all of them on a CPU, which runs a few
        layers a third faster without a loop, and 1 elsewhere, where compiling takes longer.
      attention: the kernel: ``einsum`` everywhere, ``cudnn`` on GPUs, ``splash`` on TPUs.
    """

    size: Annotated[str, OneOf(SIZES)] = "tiny"
    compute_dtype: Annotated[str, OneOf(("auto", *DTYPES))] = "auto"
    param_dtype: Annotated[str, OneOf(DTYPES)] = "float32"
    remat: Annotated[str, OneOf(REMAT_POLICIES)] = "none"
    unroll: Count = 1
    attention: Annotated[str, OneOf(kernels)] = "einsum"


@config_block
class LoraConfig(Lora):
    """``config.lora``: the fields of ``models.lora.Lora``, and one more.

    Attributes:
      base_dtype: dtype of the matrices below the adapters, which are never trained.
    """

    base_dtype: Annotated[str, OneOf(DTYPES)] = "float32"


@config_block
class MeshConfig:
    """``config.mesh``: devices along each axis, see ``core.sharding.make_mesh``.

    Attributes:
      data: devices that each have rows of the batch and all parameters.
      fsdp: devices that share the parameters and have rows of their own.
      tensor: devices that share each product of matrices. Of one of the three sizes -1 stands for
        all devices that remain, -n for at most n of them.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        for name, size in vars(self).items():
            if size == 0:
                raise FieldError(name, "must be a number of devices, or -1 for all; got 0")


SCORINGS = ("world", "rewards")
"""How held-out records are scored: as pictures and questions of the embedded world, or by the rewards
of the run."""

ON_CHANGED = ("refuse", "accept")
"""What a run that resumes does about training records that have changed."""


@config_block
class DataConfig:
    """``config.data``: where records come from, and which of them are used.

    Attributes:
      source: address of the data, a folder, a file, ``hub:NAME``, ``tfds:NAME`` or a preset;
        ``shapes`` is the embedded world.
      cache_dir: folder for data sets that are built or downloaded; "" is the user's cache.
      columns: field of a record to the column of the source that has it; "" is the usual one.
      question_kinds: kinds of questions to keep, such as ``count``; () keeps all.
      qa_type: ``MC`` (multiple choice) or ``OE`` (open ended); "" keeps both.
      limit: number of training records to keep, the first ones; 0 keeps all.
      held_out: share of the training records, by a hash of their ids, that training never sees; they
        are then the held-out records. 0 takes those of the source's own test split.
      template: how questions are put: ``as_is``, another name of docs/mixtures.md, or a text with
        ``{question}``.
      mixture: name to a set of training records with its weights; they take the place of ``source``
        in training. An empty block is none.
      stages: first steps of the stages of a curriculum, after the one at 0; what changes by stage
        has one value for the whole run, or one per stage.
      check: what of the training records is checked before the first step.
      on_bad: what happens if some cannot be used: the run ends with all that is wrong, or takes other
        records in their place.
      changed: whether a run that resumes goes on after its training records have changed.
      workers: processes that decode and resize pictures during a step, as far as they are needed; 0
        does it in threads of the run.
    """

    source: Annotated[
        str, NotEmpty(), "Give a folder, a file, or shapes for the embedded world"
    ] = "shapes"
    cache_dir: str = ""
    columns: Annotated[Mapping[str, str], Keys(COLUMN_FIELDS)] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(COLUMN_FIELDS, "")
    )
    question_kinds: tuple[str, ...] = ()
    qa_type: Annotated[str, OneOf(("", *QA_TYPES))] = ""
    limit: Count = 0
    held_out: Annotated[
        float, Interval(ge=0, lt=1), "It is a share of the training records, such as 0.01"
    ] = 0.0
    template: Annotated[str, QuestionTemplateName()] = "as_is"
    mixture: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[PositiveInt, ...] = ()
    check: Annotated[str, OneOf(CHECK_LEVELS)] = "all"
    on_bad: Annotated[str, OneOf(ON_BAD)] = "error"
    changed: Annotated[str, OneOf(ON_CHANGED)] = "refuse"
    workers: Annotated[int, Interval(ge=0, le=256)] = 4

    def __post_init__(self):
        if any(a >= b for a, b in itertools.pairwise(self.stages)):
            raise FieldError("stages", f"must ascend; got {self.stages}. Put them in order")


@config_block
class HooksConfig:
    """``config.hooks``: steps from one run of a hook to the next; 0 never runs it.

    Attributes:
      save_every: steps from one checkpoint to the next; 0 saves at the end only.
      sample_every: steps between sheets of sampled images; 0 for none.
      probe_every: steps between rewards of held-out prompts; 0 for none.
      interference_every: steps between measurements of the cosine of both tasks' gradients; 0 for
        none.
      completions_every: steps between samples with prompts, rewards and advantages in
        ``completions/``; above 0 also those of the first and the last step. Reinforcement learning
        alone has some.
      completions_groups: prompts of each task whose samples are written.
      keep_completions: newest steps whose completions are kept.
      keep_checkpoints: how many of the newest checkpoints are kept.
      trace_steps: steps in a trace of JAX's profiler, in ``trace/`` of the work directory; 0 for no
        trace.
      trace_after: steps before the trace, so that compilation is not in it.
    """

    save_every: Count = 0
    sample_every: Count = 0
    probe_every: Count = 0
    interference_every: Count = 0
    completions_every: Count = 25
    completions_groups: PositiveInt = 2
    keep_completions: PositiveInt = 8
    keep_checkpoints: PositiveInt = 2
    trace_steps: Count = 0
    trace_after: Count = 2


@config_block
class TrackersConfig:
    """``config.trackers``: what shows the curves of a run beside its own files, docs/trackers.md.

    Attributes:
      names: of ``engine.trackers.collection.TRACKERS``; () for none.
      every: steps from one row to the next; 0 for none. ``metrics.jsonl`` has every step.
      project: that Weights & Biases and trackio file the run under.
      run_name: of the run there; "" is the name of its work directory.
    """

    names: tuple[Annotated[str, OneOf(TRACKERS)], ...] = ("tensorboard",)
    every: Count = 10
    project: Annotated[str, NotEmpty()] = "corl_jax"
    run_name: str = ""

    def __post_init__(self):
        if len(set(self.names)) < len(self.names):
            raise FieldError("names", f"must differ; got {self.names}. Name each once")


@config_block
class EvalsConfig:
    """``config.evals``: the evaluation before and after a run, on held-out records.

    Attributes:
      num_records: how many held-out records; 0 skips the evaluation.
      scoring: how they are scored: as pictures and questions of the embedded world, or by the rewards
        of the run.
      guidance_scales: scales of classifier-free guidance; images are sampled at each of them.
      seed: of the records and of sampling.
      batch_size: records per compiled call.
    """

    num_records: Count = 0
    scoring: Annotated[str, OneOf(SCORINGS)] = "world"
    guidance_scales: tuple[Weight, ...] = (1.0,)
    seed: Seed = 0
    batch_size: PositiveInt = 64


Trainable = Annotated[
    tuple[Annotated[str, NotEmpty()], ...],
    NotEmpty(),
    "Name parameters by patterns such as 'language_model/*'",
]
"""``config.trainable``: patterns of the paths of parameters that a stage trains."""


def has_evaluation(config: Mapping[str, Any]) -> bool:
    """Whether a run is evaluated on held-out records before and after."""
    is_rl = config["stage"] == "rl" and "evals" in config
    return is_rl and config["evals"]["num_records"] > 0


@config_block
class StageKeys:
    """The keys of a config that are no blocks and that only some stages have.

    Attributes:
      batch_size: records of a step.
      trainable: patterns of the paths of parameters that are trained, such as ``language_model/*``.
    """

    batch_size: PositiveInt
    trainable: Trainable


@config_block
class ShardingRulesConfig:
    """``config.sharding_rules``: changes to the rules of ``core.sharding``.

    Attributes:
      update: logical axis to the mesh axes that split it in the update; "" for none.
      rollout: the same in rollouts, which replicate the weights that they read at every token.
    """

    update: Mapping[str, str]
    rollout: Mapping[str, str]


@contextlib.contextmanager
def within(key: str) -> Iterator[None]:
    """Names the fields of errors in the block as keys below ``config.<key>``; "" is the config.

    Raises:
      UserError: in place of every FieldError.
    """
    try:
        yield
    except FieldError as error:
        raise error.of(f"config.{key}." if key else "config.") from None


def read_run_config(config: Mapping[str, Any]) -> RunConfig:
    """The keys of a config that every stage has.

    Raises:
      UserError: a key that is missing, or a value that a run cannot have.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    if missing := [name for name in names if name not in config]:
        raise UserError(f"the config must have the key {missing[0]}; it is missing. Add it")
    return read_block(RunConfig, {name: config[name] for name in names}, "")


def check_key(config: Mapping[str, Any], name: str, annotation: Any) -> None:
    """Checks ``config.<name>`` by an annotation, see ``core.checks.config_block``.

    Raises:
      UserError: it is missing, or has a value that it cannot have.
    """
    if name not in config:
        raise UserError(f"the config must have the key {name}; it is missing. Add it")
    with within(""):
        check_value(name, as_tuple(config[name]), annotation)


def as_tuple(value: object) -> object:
    """A list as a tuple, since JSON has no tuples; other values as they are."""
    return tuple(as_tuple(element) for element in value) if isinstance(value, list) else value


@config_block
class ResumeConfig:
    """``config.resume``: how one start goes on with a run. It is no part of the run's config.

    Attributes:
      fallback: goes on from an earlier checkpoint, where the newest one is damaged.
      accept_init_from: goes on although a policy of ``init_from`` has changed since the run began.
    """

    fallback: bool = False
    accept_init_from: bool = False


def without_resume(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run, without what counts for one start alone."""
    kept = {key: value for key, value in config.items() if key != "resume"}
    # Changed records are accepted once: the next start compares with what they are then.
    return kept | {"data": dict(kept["data"]) | {"changed": DataConfig.changed}}


def read_block(cls: type[T], block: Mapping[str, Any], key: str, **derived: Any) -> T:
    """``block`` as a ``cls``.

    Args:
      cls: a dataclass.
      block: values by field name.
      key: of the block within the config, for errors.
      derived: fields that the config does not hold.

    Raises:
      UserError: unknown or missing fields, or a value that a field cannot have.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_keys(block, fields - derived.keys(), key)
    with within(key):
        return cls(**{name: as_tuple(value) for name, value in block.items()}, **derived)


def check_keys(block: Mapping[str, Any], expected: set[str], key: str) -> None:
    """Raises UserError unless ``config.<key>`` has exactly the keys ``expected``."""
    if not isinstance(block, Mapping):
        raise UserError(
            f"config.{key} must be a block with the keys {', '.join(sorted(expected))}; got "
            f"{show(block)}"
        )
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
