"""Steps that every stage shares: mesh, model definition, weights by handoff, data.

In: the config. Out: a ``Parts`` from which a stage is built.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import flatten, flatten_abstract, matches
from corl_jax.core.types import Params
from corl_jax.data.shapes import builder
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.data.sources import RecordSource
from corl_jax.data.text import TextTokenizer
from corl_jax.models.config import JanusConfig, named_size
from corl_jax.models.unified import Janus, abstract, logical_axes
from corl_jax.porting.save import TOKENIZER_FILES
from corl_jax.porting.source import Source, open_source
from corl_jax.sampling.generate import Sampler
from corl_jax.sampling.layout import SpecialIds
from corl_jax.stages.settings import DataSettings, ModelSettings, block


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a stage is built from.

    Attributes:
      sharder: mesh and rules.
      cfg: sizes.
      sampler: the compiled programs of the model.
      tokenizer: text tokenizer; its files lie in ``tokenizer_folder``.
      structs: shape, dtype and placement of every parameter.
      sources: (pattern, source) pairs of the handoff, first match wins; none means scratch.
      seed: of fresh parameters.
    """

    sharder: Sharder
    cfg: JanusConfig
    sampler: Sampler
    tokenizer: TextTokenizer
    tokenizer_folder: pathlib.Path
    structs: dict[str, jax.ShapeDtypeStruct]
    sources: tuple[tuple[str, Source], ...]
    seed: int

    def params(self, only: str = "*") -> Params:
        """Parameters whose path matches ``only``: handed off where a source matches, freshly initialised elsewhere."""
        wanted = {path: struct for path, struct in self.structs.items() if matches(path, [only])}
        params: Params = {}
        for pattern, source in self.sources:
            mine = {p: s for p, s in wanted.items() if matches(p, [pattern]) and p not in params}
            if not mine:
                raise UserError(f"init_from pattern {pattern!r} matches no parameter that is still to be filled")
            params |= source.params(mine)
        if missing := [path for path in wanted if path not in params]:
            fresh = fresh_params(self.cfg, self.seed, self.structs)
            params |= {path: fresh[path] for path in missing}
        return dict(sorted(params.items()))


def assemble(config: Mapping[str, Any], workdir: pathlib.Path) -> Parts:
    """Reads ``model``, ``mesh`` and ``init_from`` and builds the parts; copies the text tokenizer into ``workdir``.

    Raises:
      UserError: a name, size or folder that does not exist or does not fit.
    """
    model = block(ModelSettings, config["model"], "model")
    sharder = Sharder(make_mesh(dict(config["mesh"])))
    sources = parse_init_from(config["init_from"])
    sizes = {source.cfg for _, source in sources}
    if len(sizes) > 1:
        raise UserError(f"the sources in init_from={config['init_from']!r} hold models of different sizes")
    cfg = sizes.pop() if sizes else named_size(model.size)
    dtype = compute_dtype(model.compute_dtype)
    shape = abstract(cfg, dtype=dtype, remat=model.remat)
    axes, leaves = logical_axes(shape), flatten_abstract(shape)
    structs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharder.fitted(leaf.shape, axes[path], path))
        for path, leaf in leaves.items()
    }
    folder = workdir / "tokenizer"
    place_tokenizer(sources, folder)
    tokenizer = TextTokenizer.load(folder)
    ids = SpecialIds.of(tokenizer, cfg.decoder.vocab_size)
    return Parts(
        sharder, cfg, Sampler(nnx.split(shape)[0], cfg, ids), tokenizer, folder, structs, sources, config["seed"]
    )


def parse_init_from(text: str) -> tuple[tuple[str, Source], ...]:
    """``""`` (scratch), ``SOURCE``, or ``PATTERN=SOURCE,PATTERN=SOURCE`` to (pattern, source) pairs."""
    pairs = []
    for part in filter(None, text.split(",")):
        pattern, equals, name = part.partition("=")
        pairs.append((pattern, open_source(name)) if equals else ("*", open_source(part)))
    return tuple(pairs)


def place_tokenizer(sources: tuple[tuple[str, Source], ...], folder: pathlib.Path) -> None:
    """Puts the text tokenizer's files into ``folder`` once: the source's, or the embedded world's own."""
    if (folder / "tokenizer.json").is_file():
        return
    if not sources:
        write_tokenizer(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (sources[0][1].tokenizer / name).is_file():
            shutil.copyfile(sources[0][1].tokenizer / name, folder / name)


def fresh_params(cfg: JanusConfig, seed: int, structs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Randomly initialised parameters, born in their placement."""

    @functools.partial(jax.jit, out_shardings={path: struct.sharding for path, struct in structs.items()})
    def make(key: jax.Array) -> Params:
        return flatten(Janus(cfg, rngs=nnx.Rngs(key)))[1]

    return make(jax.random.key(seed))


def records(config: Mapping[str, Any], split: str) -> RecordSource:
    """The records of the config's data block."""
    data = block(DataSettings, config["data"], "data")
    if data.name != "shapes":
        raise UserError(f"unknown data set {data.name!r}; expected shapes, the embedded world")
    return builder.source(data.dir or None, split)  # type: ignore[arg-type]
