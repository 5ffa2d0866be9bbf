"""Steps that every stage shares: mesh, model definition, weights by handoff, data.

In: the config. Out: a ``Setup`` from which a stage is built. Nothing is written but what ``write_tokenizer_files`` writes.
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

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import DTYPES, compute_dtype
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import flatten, flatten_abstract, matches, partition
from corl_jax.core.types import Params
from corl_jax.data.record_folder import FolderSource
from corl_jax.data.selection import DescribedSource, select
from corl_jax.data.shapes import builder
from corl_jax.data.shapes.examples import Split
from corl_jax.data.shapes.vocabulary import build_tokenizer, write_tokenizer
from corl_jax.data.sources import RecordSource
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.attention_kernels import check as check_kernel
from corl_jax.models.janus.config import JanusConfig, named_size
from corl_jax.models.janus.model import Janus, abstract, logical_axes
from corl_jax.models.lora import ADAPTERS, is_adapter, merged, without
from corl_jax.models.lora import fresh as fresh_adapters
from corl_jax.porting.janus.sidecar_files import copy_companions
from corl_jax.porting.policy_source import Source, config_to_json, open_source
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.config import DataSettings, LoraSettings, ModelSettings, block
from corl_jax.stages.param_placement import (
    ParamSpecs,
    cast_matmul_params,
    param_specs,
    read_sharding_rules,
    reshard,
    with_param_dtype,
)

DEFAULT_SIZE = "tiny"
"""What configs name when no size was asked for; a source's own size then holds."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a stage is built from.

    Attributes:
      sharder: mesh and rules of the update.
      cfg: sizes.
      sampler: the compiled programs of the model, over parameters without adapters.
      learner: the same over those that are trained; another than ``sampler`` only where ``lora`` has a rank.
      lora: adapters, see ``models.lora``.
      tokenizer: text tokenizer of the first source, or the embedded world's own.
      structs: shape, dtype and placement of every parameter while training.
      rollout: the same while sampling, of the model without adapters.
      sources: (pattern, source) pairs of the handoff, first match wins; none means scratch.
      seed: of fresh parameters.
    """

    sharder: Sharder
    cfg: JanusConfig
    sampler: PolicyFns
    learner: PolicyFns
    lora: LoraSettings
    tokenizer: TextTokenizer
    structs: ParamSpecs
    rollout: ParamSpecs
    sources: tuple[tuple[str, Source], ...]
    seed: int

    def for_rollout(self, params: Params) -> Params:
        """The whole model's parameters as the sampler reads them; see ``stages.param_placement``."""
        return reshard(self.plain(params), self.rollout)

    def plain(self, params: Params) -> Params:
        """``params`` without adapters, which are added to their kernels; those in the dtype that sampling reads."""
        return merged(params, self.lora.scale, self.rollout)

    def reader(self, params: Params) -> PolicyFns:
        """The programs that read such ``params``: with adapters, or without."""
        return self.learner if any(map(is_adapter, params)) else self.sampler

    @property
    def base(self) -> ParamSpecs:
        """``structs`` of what belongs to no adapter."""
        return without(self.structs)

    def trainable(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """What a stage trains: ``patterns``, or with adapters those alone."""
        return ADAPTERS if self.lora.rank else tuple(patterns)

    def described(self) -> dict[str, Any]:
        """The model as JSON, for manifests; ``lora`` says how much of its adapters a kernel takes."""
        lora = (
            {"lora": {"rank": self.lora.rank, "scale": self.lora.scale}} if self.lora.rank else {}
        )
        return config_to_json(self.cfg) | lora

    def params(self, only: str = "*") -> Params:
        """Parameters whose path matches ``only``: handed off where a source matches, freshly initialised elsewhere.

        Adapters are always fresh; those of a source are part of the kernels that it hands off.
        """
        handed, fresh = self._plan(only)
        params: Params = {}
        for source, wanted in handed:
            params |= source.params(wanted)
        if fresh:
            made = init_params(self.cfg, self.seed, self.base)
            params |= {path: made[path] for path in fresh}
        if self.lora.rank:
            params |= fresh_adapters(self.structs, self.seed)
        return dict(sorted(params.items()))

    def check(self, only: str = "*", trainable: Sequence[str] = ("*",)) -> None:
        """Refuses what ``params`` and the trainable split would refuse later, before anything is read or written.

        Raises:
          UserError: a pattern that matches nothing, or a source that lacks what it is asked for.
        """
        partition(
            {path: struct for path, struct in self.structs.items() if matches(path, [only])},
            trainable,
        )
        for source, wanted in self._plan(only)[0]:
            have = source.paths()
            if have is not None and (missing := sorted(wanted.keys() - have)):
                tops = ", ".join(sorted({f"{path.partition('/')[0]}/*" for path in have}))
                raise UserError(
                    f"init_from source {source.name!r} has no parameter {missing[0]!r}; it holds {tops} alone: "
                    f"say so as init_from='{tops.split(', ')[0]}={source.name}'"
                )

    def _plan(
        self, only: str
    ) -> tuple[list[tuple[Source, dict[str, jax.ShapeDtypeStruct]]], list[str]]:
        """What each source gives, and the paths that nobody gives."""
        left = {path: struct for path, struct in self.base.items() if matches(path, [only])}
        handed = []
        for pattern, source in self.sources:
            mine = {path: struct for path, struct in left.items() if matches(path, [pattern])}
            if not mine:
                raise UserError(
                    f"init_from pattern {pattern!r} matches no parameter that is still to be filled; "
                    f"expected for example image_tokenizer/*={source.name}"
                )
            handed.append((source, mine))
            left = {path: struct for path, struct in left.items() if path not in mine}
        return handed, list(left)


def build_setup(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Setup:
    """Reads ``model``, ``lora``, ``mesh``, ``rules`` and ``init_from`` and builds the parts.

    Args:
      config: of any stage.
      devices: to spread over; None for all there are.

    Raises:
      UserError: a name, size or folder that does not exist or does not fit.
    """
    model, lora = (
        block(ModelSettings, config["model"], "model"),
        block(LoraSettings, config["lora"], "lora"),
    )
    mesh = make_mesh(dict(config["mesh"]), devices)
    sharder, sampling = (
        Sharder(mesh, read_sharding_rules(config["rules"][name], name))
        for name in ("update", "rollout")
    )
    sources = parse_init_from(config["init_from"])
    sizes = {source.cfg for _, source in sources}
    if len(sizes) > 1:
        raise UserError(
            f"the sources in init_from={config['init_from']!r} hold models of different sizes"
        )
    named = named_size(model.size)
    cfg = sizes.pop() if sizes else named
    if cfg != named and model.size != DEFAULT_SIZE:
        raise UserError(
            f"model size {model.size!r} is not the size of the policy in init_from={config['init_from']!r}; "
            f"leave the size out, or start from a policy of that size"
        )
    dtype, param_dtype = compute_dtype(model.compute_dtype), jnp.dtype(DTYPES[model.param_dtype])
    platform = sharder.mesh.devices.flat[0].platform
    check_kernel(model.attention, platform, cfg.head_sizes, dtype)
    how = {
        "dtype": dtype,
        "remat": model.remat,
        "unroll": model.unroll,
        "attention": model.attention,
    }
    shape = abstract(cfg, **how)
    trained = abstract(cfg, lora, **how) if lora.rank else shape

    def held(model: Janus, on: Sharder) -> ParamSpecs:
        return param_specs(
            with_param_dtype(flatten_abstract(model), param_dtype), logical_axes(model), on
        )

    structs, rollout = (
        held(trained, sharder),
        cast_matmul_params(held(shape, sampling), jnp.dtype(dtype)),
    )
    if lora.rank:
        structs = cast_matmul_params(structs, jnp.dtype(DTYPES[lora.base_dtype]))
    tokenizer = sources[0][1].load_tokenizer() if sources else TextTokenizer(build_tokenizer())
    ids = SpecialTokenIds.of(tokenizer, cfg.decoder.vocab_size)
    sampler = PolicyFns(nnx.split(shape)[0], cfg, ids)
    learner = dataclasses.replace(sampler, graphdef=nnx.split(trained)[0]) if lora.rank else sampler
    return Setup(
        sharder, cfg, sampler, learner, lora, tokenizer, structs, rollout, sources, config["seed"]
    )


def parse_init_from(text: str) -> tuple[tuple[str, Source], ...]:
    """``""`` (scratch), ``SOURCE``, or ``PATTERN=SOURCE,PATTERN=SOURCE`` to (pattern, source) pairs."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, name = part.partition("=")
        pairs.append((pattern, open_source(name)) if equals else ("*", open_source(part)))
    return tuple(pairs)


def write_tokenizer_files(sources: Sequence[tuple[str, Source]], folder: pathlib.Path) -> None:
    """Puts the files that travel beside the weights into ``folder`` once, whole or not at all.

    They are the first source's, or our own text tokenizer.
    """
    if folder.is_dir():
        return
    aside = folder.with_name(folder.name + ".part")
    aside.mkdir(parents=True, exist_ok=True)
    if sources:
        copy_companions(sources[0][1].tokenizer, aside)
    else:
        write_tokenizer(aside)
    aside.rename(folder)


def init_params(cfg: JanusConfig, seed: int, structs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Randomly initialised parameters, born in their placement and dtype."""

    @functools.partial(
        jax.jit, out_shardings={path: struct.sharding for path, struct in structs.items()}
    )
    def make(key: jax.Array) -> Params:
        made = flatten(Janus(cfg, rngs=nnx.Rngs(key)))[1]
        return {path: leaf.astype(structs[path].dtype) for path, leaf in made.items()}

    return make(jax.random.key(seed))


def open_records(config: Mapping[str, Any], split: Split) -> RecordSource:
    """The records of the config's data block; its ``limit`` holds for training alone.

    Raises:
      UserError: an unknown data set, files that are not there, or a choice that leaves nothing.
    """
    data = block(DataSettings, config["data"], "data")
    whole: DescribedSource = (
        FolderSource(data.dir, split)
        if data.name == "records"
        else builder.source(data.dir or None, split)
    )
    return select(whole, data.questions, data.qa_type, data.limit if split == "train" else 0)
