"""Merges policies into one, weight tensor by weight tensor. In: names of policies; out: a Hugging Face folder.

Host memory stays near the largest parameter (all layers of one kind) of each policy; what is merged waits in a file
beside the new folder.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.models.janus.model import abstract
from corl_jax.objectives.weight_merging import merges
from corl_jax.porting.janus.folder import foreign_plan
from corl_jax.porting.janus.layouts import FORMATS
from corl_jax.porting.policy_source import Source, open_source
from corl_jax.porting.writer import EXPORT_DTYPES, carried, check_new, save_folder

STORED = "stored"
"""The dtype that the base's weights are held in."""
TOGETHER = 2**28
"""Bytes of parameters that are read at once."""
HEAD = "language_model/lm_head/kernel"


@dataclasses.dataclass(frozen=True)
class MergeSettings:
    """How policies are merged.

    Attributes:
      method: a name in ``objectives.weight_merging.merges``.
      lam: of ``gaussian``, lambda.
      weights: of ``linear``, one per expert; () for equal ones.
      dtype: of the weights written: ``stored`` (the base's), ``float32`` or ``bfloat16``.
    """

    method: str = "gaussian"
    lam: float = 2.0
    weights: tuple[float, ...] = ()
    dtype: str = STORED

    def __post_init__(self):
        merges[self.method]
        if not 0 < self.lam < math.inf:
            raise UserError(
                f"lambda={self.lam} is out of range; expected a number above 0, such as 2"
            )
        if self.weights and self.method != "linear":
            raise UserError(
                f"weights {self.weights} are for the method linear, not {self.method!r}; leave them out"
            )
        if self.dtype not in (STORED, *EXPORT_DTYPES):
            raise UserError(
                f"unknown dtype {self.dtype!r}; expected {', '.join((STORED, *EXPORT_DTYPES))}"
            )


def merge_policies(
    base: str, experts: Sequence[str], out: str | pathlib.Path, settings: MergeSettings
) -> None:
    """Writes the merged policy to ``out``, whole or not at all, with the files that travel beside the base.

    Args:
      base: what the experts began as: a work directory, a Hugging Face folder or hub id, or ``tiny``.
      experts: one or more policies of the same size and tokenizer, in any layout.
      out: new folder, or an empty one.
      settings: how.

    Raises:
      UserError: policies that do not belong together, no expert, weights that are not one per expert, or a folder that
        cannot be written.
    """
    out = pathlib.Path(out)
    check_new(out)
    if not experts:
        raise UserError(
            "there is no expert to merge; name at least one policy that began as the base"
        )
    weights = settings.weights or (1 / len(experts),) * len(experts)
    if len(weights) != len(experts):
        raise UserError(
            f"{len(weights)} weights for {len(experts)} experts; give one each, or none"
        )
    sources = [open_source(name) for name in (base, *experts)]
    _check_alike(sources)
    first = sources[0]
    dtype = str(first.held(HEAD)) if settings.dtype == STORED else settings.dtype
    method = merges[settings.method]
    structs = flatten_abstract(abstract(first.cfg))
    layered = _layered(first)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
    except OSError as error:
        raise UserError(
            f"{str(out)!r} cannot be written ({error}); choose another folder"
        ) from None
    with scratch as folder:
        merged: dict[str, Any] = {}
        for some in tqdm(_groups(structs), desc="merge", unit="group", delay=1):
            read = [_read(source, some) for source in sources]
            for path, struct in some.items():
                began, *others = (params.pop(path) for params in read)
                held = np.memmap(
                    f"{folder}/{len(merged)}", EXPORT_DTYPES[dtype], "w+", shape=struct.shape
                )
                for layer in range(len(held)) if path in layered else [...]:
                    held[layer] = method(
                        began[layer], [other[layer] for other in others], settings.lam, weights
                    )
                merged[path] = held
        transformers = FORMATS["transformers"]
        unused = carried(first.folder, transformers)
        save_folder(
            merged, first.cfg, first.tokenizer, out, layout=transformers, dtype=dtype, unused=unused
        )


def _check_alike(sources: Sequence[Source]) -> None:
    """Refuses policies whose weights do not mean the same."""
    first, *others = sources
    tokenizer = first.load_tokenizer()
    for other in others:
        if other.cfg != first.cfg:
            mine, theirs = _sizes(first.cfg), _sizes(other.cfg)
            name = next(name for name in mine if mine[name] != theirs[name])
            raise UserError(
                f"policies {first.name!r} and {other.name!r} have other shapes: {name} is {mine[name]} and "
                f"{theirs[name]}; merge policies that began as one"
            )
        if not tokenizer.same_ids(other.load_tokenizer()):
            raise UserError(
                f"policies {first.name!r} and {other.name!r} have other tokenizers, so their weights do not mean the "
                "same words; merge policies that began as one"
            )


def _sizes(cfg: Any) -> Mapping[str, Any]:
    """All sizes by dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        value = vars(cfg)[field.name]
        inner = _sizes(value) if dataclasses.is_dataclass(value) else {"": value}
        found |= {f"{field.name}.{name}".rstrip("."): leaf for name, leaf in inner.items()}
    return found


def _layered(source: Source) -> set[str]:
    """Paths that hold a tensor of every layer, each of which is merged by itself."""
    tensors = foreign_plan(source.cfg, FORMATS["transformers"]).values()
    return {piece.path for tensor in tensors for piece in tensor.pieces if piece.layer is not None}


def _groups(structs: Mapping[str, jax.ShapeDtypeStruct]) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Parameters that are read together: up to ``TOGETHER`` bytes, or one; opening a checkpoint takes its time."""
    groups: list[dict[str, jax.ShapeDtypeStruct]] = []
    room = 0
    for path, struct in structs.items():
        size = math.prod(struct.shape) * struct.dtype.itemsize
        if not groups or size > room:
            groups.append({})
            room = TOGETHER
        groups[-1][path] = struct
        room -= size
    return groups


def _read(source: Source, some: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Parameters on the host."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(struct.shape, source.held(path), sharding=here)
        for path, struct in some.items()
    }
    return {path: np.asarray(leaf) for path, leaf in source.params(wanted).items()}
