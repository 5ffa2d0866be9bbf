"""What every stage is built from: mesh, model definition, initial parameters, tokenizer, records.

``build_setup`` reads a config and returns a ``Setup``. It writes nothing; only
``write_tokenizer_files`` does.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import DTYPES, compute_dtype
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import flatten, flatten_abstract, matches, partition
from corl_jax.core.types import Params
from corl_jax.data.mixing.mixture import Mixture, Part
from corl_jax.data.mixing.templated_source import with_template
from corl_jax.data.selection import records_at, select_rows
from corl_jax.data.shapes.examples import Split
from corl_jax.data.shapes.vocabulary import build_tokenizer, write_tokenizer
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.sources.base import RecordSource
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.unusable_records import Check, usable_rows
from corl_jax.models.attention_kernels import check_kernel
from corl_jax.models.janus.config import JanusConfig, named_size
from corl_jax.models.janus.model import Janus, abstract, logical_axes
from corl_jax.models.language_model import decodes_separately
from corl_jax.models.lora import (
    ADAPTER_PATTERNS,
    init_adapters,
    is_adapter,
    merge_adapters,
    without_adapters,
)
from corl_jax.porting.janus.sidecar_files import copy_sidecar_files
from corl_jax.porting.policy_source import PolicySource, config_to_json, open_policy_source
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.config import DataConfig, LoraConfig, MeshConfig, ModelConfig, read_block
from corl_jax.stages.mixture_config import read_parts
from corl_jax.stages.param_placement import (
    ParamSpecs,
    cast_matmul_params,
    param_specs,
    read_sharding_rules,
    reshard,
    with_param_dtype,
)

DEFAULT_SIZE = "tiny"
"""The size in a config that asked for none; the size of the policy in ``init_from`` then counts."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a stage is built from.

    Attributes:
      sharder: mesh and sharding rules of the update.
      cfg: sizes of the model.
      rollout_policy: compiled programs over parameters without adapters; they sample.
      trained_policy: compiled programs over the parameters that are trained; differs from
        ``rollout_policy`` only where there are adapters.
      lora: the adapters, see ``models.lora``.
      tokenizer: text tokenizer of the first source, or the embedded world's.
      param_specs: shape, dtype and sharding of every parameter while training.
      rollout_param_specs: the same while sampling, of the model without adapters.
      sources: (pattern, policy) pairs that initial parameters come from; the first pattern that
        matches a path counts, and a path without a match is initialized at random.
      seed: of random initialization.
    """

    sharder: Sharder
    cfg: JanusConfig
    rollout_policy: PolicyFns
    trained_policy: PolicyFns
    lora: LoraConfig
    tokenizer: TextTokenizer
    param_specs: ParamSpecs
    rollout_param_specs: ParamSpecs
    sources: tuple[tuple[str, PolicySource], ...]
    seed: int

    def rollout_params(self, params: Params) -> Params:
        """The whole model's parameters, resharded and cast for sampling; see ``param_placement``."""
        return reshard(self.merge_adapters(params), self.rollout_param_specs)

    def merge_adapters(self, params: Params) -> Params:
        """Parameters without adapters, which are added to their kernels."""
        return merge_adapters(params, self.lora.scale, self.rollout_param_specs)

    def policy_for(self, params: Params) -> PolicyFns:
        """The programs that read ``params``, with or without adapters."""
        has_adapters = any(is_adapter(path) for path in params)
        return self.trained_policy if has_adapters else self.rollout_policy

    @property
    def base_param_specs(self) -> ParamSpecs:
        """``param_specs`` without the adapters."""
        return without_adapters(self.param_specs)

    def trainable_patterns(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Paths of what a stage trains: ``patterns``, or the adapters alone where there are any."""
        return ADAPTER_PATTERNS if self.lora.rank else tuple(patterns)

    def model_json(self) -> dict[str, Any]:
        """The model as JSON, for checkpoint manifests."""
        # Whoever reads a checkpoint needs the scale to merge its adapters.
        model = config_to_json(self.cfg)
        if self.lora.rank:
            model |= {"lora": {"rank": self.lora.rank, "scale": self.lora.scale}}
        return model

    def check_length(self, parts: Mapping[str, int]) -> None:
        """Refuses sequences that are longer than the model has positions.

        Args:
          parts: tokens by config key, or by a description.

        Raises:
          UserError: the parts together are too long.
        """
        total, limit = sum(parts.values()), self.cfg.decoder.max_length
        if total > limit:
            sizes = " and ".join(f"{name} of {tokens}" for name, tokens in parts.items())
            raise UserError(
                f"a prompt and its completion must have at most {limit} tokens together, the "
                f"positions of the policy; got {sizes}. Lower one of them"
            )

    def load_params(self, only: str = "*") -> Params:
        """Initial parameters whose path matches ``only``, on the mesh.

        Adapters always start anew; those of a source are part of the kernels that it provides.
        """
        # Sources first: tensors go from their files straight to their place on the mesh.
        from_sources, at_random = self._assign_sources(only)
        params: Params = {}
        for source, specs in from_sources:
            params |= source.load_params(specs)

        # What no source provides is random, but only those parameters are kept.
        if at_random:
            initial = init_params(self.cfg, self.seed, self.base_param_specs)
            params |= {path: initial[path] for path in at_random}
        if self.lora.rank:
            params |= init_adapters(self.param_specs, self.seed)
        return dict(sorted(params.items()))

    def check_sources(self, only: str = "*", trainable: Sequence[str] = ("*",)) -> None:
        """Finds before anything is read or written what ``load_params`` could not provide.

        Raises:
          UserError: a pattern that matches nothing, or a source that lacks a parameter.
        """
        specs = {path: spec for path, spec in self.param_specs.items() if matches(path, [only])}
        partition(specs, trainable)

        from_sources, _ = self._assign_sources(only)
        for source, wanted_specs in from_sources:
            saved_paths = source.saved_paths()
            if saved_paths is None:
                continue
            if missing := sorted(wanted_specs.keys() - saved_paths):
                saved = sorted({f"{path.partition('/')[0]}/*" for path in saved_paths})
                raise UserError(
                    f"config.init_from source {source.name!r} must have the parameter "
                    f"{missing[0]!r}; it has {', '.join(saved)} only. To take those, set "
                    f"config.init_from='{saved[0]}={source.name}'"
                )

    def _assign_sources(self, only: str) -> tuple[list[tuple[PolicySource, ParamSpecs]], list[str]]:
        """The parameters that each source provides, and the paths that no source does."""
        # The first pattern that matches a path decides where it comes from.
        remaining = {
            path: spec for path, spec in self.base_param_specs.items() if matches(path, [only])
        }
        from_sources = []
        for pattern, source in self.sources:
            specs = {path: spec for path, spec in remaining.items() if matches(path, [pattern])}
            if not specs:
                raise UserError(
                    f"config.init_from pattern {pattern!r} must match a parameter that no pattern "
                    f"before it matches; expected for example image_tokenizer/*={source.name}"
                )
            from_sources.append((source, specs))
            remaining = {path: spec for path, spec in remaining.items() if path not in specs}
        return from_sources, list(remaining)


def build_setup(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Setup:
    """Reads ``model``, ``lora``, ``mesh``, ``sharding_rules`` and ``init_from`` of a config.

    Args:
      config: of any stage.
      devices: that the mesh spreads over; None for all.

    Raises:
      UserError: a name, size or folder that does not exist or does not fit.
    """
    model = read_block(ModelConfig, config["model"], "model")
    lora = read_block(LoraConfig, config["lora"], "lora")
    mesh = make_mesh(vars(read_block(MeshConfig, config["mesh"], "mesh")), devices)
    sharder, rollout_sharder = (
        Sharder(mesh, read_sharding_rules(config["sharding_rules"][name], name))
        for name in ("update", "rollout")
    )

    # The policies of init_from decide the sizes, unless there are none.
    sources = parse_init_from(config["init_from"])
    cfg = _model_sizes(model.size, sources, config["init_from"])
    dtype, param_dtype = compute_dtype(model.compute_dtype), jnp.dtype(DTYPES[model.param_dtype])
    platform = mesh.devices.flat[0].platform
    check_kernel(model.attention, platform, cfg.head_sizes, dtype)

    # With adapters two models share their kernels: one is trained, the other samples.
    kwargs: dict[str, Any] = {
        "dtype": dtype,
        "remat": model.remat,
        "unroll": model.unroll or (cfg.decoder.depth if platform == "cpu" else 1),
        "attention": model.attention,
        "separate_decoding": decodes_separately(cfg.decoder, dtype, platform),
    }
    rollout_model = abstract(cfg, **kwargs)
    trained_model = abstract(cfg, lora, **kwargs) if lora.rank else rollout_model

    def specs_of(model: Janus, sharder: Sharder) -> ParamSpecs:
        shapes = with_param_dtype(flatten_abstract(model), param_dtype)
        return param_specs(shapes, logical_axes(model), sharder)

    trained_specs = specs_of(trained_model, sharder)
    rollout_specs = cast_matmul_params(specs_of(rollout_model, rollout_sharder), jnp.dtype(dtype))
    if lora.rank:
        trained_specs = cast_matmul_params(trained_specs, jnp.dtype(DTYPES[lora.base_dtype]))

    # The first source brings the tokenizer; its ids shape the compiled programs.
    tokenizer = sources[0][1].load_tokenizer() if sources else TextTokenizer(build_tokenizer())
    ids = SpecialTokenIds.of(tokenizer, cfg.text_vocab_size)
    rollout_policy = PolicyFns(nnx.split(rollout_model)[0], cfg, ids)
    trained_policy = rollout_policy
    if lora.rank:
        trained_policy = dataclasses.replace(rollout_policy, graphdef=nnx.split(trained_model)[0])
    return Setup(
        sharder,
        cfg,
        rollout_policy,
        trained_policy,
        lora,
        tokenizer,
        trained_specs,
        rollout_specs,
        sources,
        config["seed"],
    )


def _model_sizes(
    size: str, sources: Sequence[tuple[str, PolicySource]], init_from: str
) -> JanusConfig:
    """Sizes of the model: those of the sources, or of the size named in the config.

    Raises:
      UserError: sources of different sizes, or another size named in the config.
    """
    # Sizes of policies on disk win over the config's default size.
    named = named_size(size)
    source_sizes = {source.cfg for _, source in sources}
    if not source_sizes:
        return named
    if len(source_sizes) > 1:
        raise UserError(
            f"the sources in config.init_from={init_from!r} must hold models of one size; got "
            f"{len(source_sizes)} sizes"
        )
    cfg = source_sizes.pop()
    if cfg != named and size != DEFAULT_SIZE:
        raise UserError(
            f"config.model.size={size!r} must be the size of the policy in init_from={init_from!r}; "
            f"leave the size out, or start from a policy of that size"
        )
    return cfg


def parse_init_from(text: str) -> tuple[tuple[str, PolicySource], ...]:
    """Opens ``SOURCE``, or each of ``PATTERN=SOURCE,PATTERN=SOURCE``; "" is none."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, name = part.partition("=")
        if equals:
            pairs.append((pattern, open_policy_source(name)))
        else:
            pairs.append(("*", open_policy_source(part)))
    return tuple(pairs)


def write_tokenizer_files(
    sources: Sequence[tuple[str, PolicySource]], folder: pathlib.Path
) -> None:
    """Writes the files that belong beside the weights into ``folder`` once, all or none.

    They are the first source's, or else the embedded world's tokenizer.
    """
    if folder.is_dir():
        return
    # Renamed at the end, so that a killed run never leaves half a tokenizer.
    partial = folder.with_name(folder.name + ".part")
    partial.mkdir(parents=True, exist_ok=True)
    if sources:
        copy_sidecar_files(sources[0][1].tokenizer_folder, partial)
    else:
        write_tokenizer(partial)
    partial.rename(folder)


def init_params(cfg: JanusConfig, seed: int, specs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Randomly initialized parameters, created in their dtype and on their devices."""

    @functools.partial(jax.jit, out_shardings={path: spec.sharding for path, spec in specs.items()})
    def init(key: Key[Array, ""]) -> Params:
        _, params = flatten(Janus(cfg, rngs=nnx.Rngs(key)))
        return {path: leaf.astype(specs[path].dtype) for path, leaf in params.items()}

    return init(jax.random.key(seed))


def open_records(
    config: Mapping[str, Any], split: Split, checks: Sequence[Check] = ()
) -> RecordSource:
    """The records that ``config.data`` names; its ``limit`` counts for training alone.

    Held-out records are those of the test split of ``source``; with ``held_out``, those that training
    leaves out, of all parts of a mixture that have a weight.

    Args:
      config: of any stage.
      split: ``train`` or ``test``.
      checks: what must be true of the texts of every training record. Records of a test split are
        checked where some of them are chosen.

    Raises:
      UserError: an unknown data set, missing files, records that cannot be used, or a selection that
        leaves none.
    """
    data = read_block(DataConfig, config["data"], "data")
    if split == "train" or not (data.held_out and data.mixture):
        return open_selection(data, split, checks)
    return Mixture(
        [
            Part(name, open_selection(part.as_data(data), split, checks, f"data.mixture.{name}"))
            for name, part in read_parts(data).items()
            if any((*part.image_weight, *part.text_weight))
        ]
    )


def open_selection(
    data: DataConfig,
    split: Split,
    checks: Sequence[Check] = (),
    key: str = "data",
    quiet: bool = False,
) -> RecordSource:
    """The records that ``data`` names, see ``open_records``.

    Args:
      key: of the block, for errors.
      quiet: says nothing of records that are replaced.
    """
    is_training, is_divided = split == "train", data.held_out > 0
    opened: Split = "train" if is_divided else split
    source = open_source(data.source, opened, data.columns, cache_dir=data.cache_dir)
    source = with_template(source, data.template)
    rows = select_rows(
        source,
        data.question_kinds,
        data.qa_type,
        data.limit if is_training else 0,
        f"config.{key}",
        data.held_out,
        split,
    )
    part = "" if key == "data" else f"{key.rpartition('.')[2]!r} "
    rows = usable_rows(
        source,
        rows,
        checks,
        level=data.check if is_training or is_divided else "none",
        on_bad=data.on_bad,
        label=part + ("training" if is_training else "held-out"),
        quiet=quiet,
    )
    if is_divided and not is_training:
        # Nothing takes the place of a held-out record that cannot be used.
        rows = list(dict.fromkeys(rows))
    return records_at(source, rows)
