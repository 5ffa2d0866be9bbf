"""Merges several policies into one, tensor by tensor, and writes a Hugging Face folder.

Host memory stays near the largest parameter (all layers of one kind) of each policy. Merged
parameters wait in files next to the new folder.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from tqdm import tqdm

from corl_jax.core.checks.config_block import FieldError, Interval, OneOf, config_block
from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import JANUS_TEXT_HEAD, abstract
from corl_jax.objectives.weight_merging import merges
from corl_jax.porting.janus.folder import janus_tensors
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.new_folder import check_new_folder
from corl_jax.porting.policy_source import PolicySource, open_policy_source
from corl_jax.porting.writer import EXPORT_DTYPES, passthrough_entries, save_folder

STORED = "stored"
"""The dtype in which the base stores its weights."""
GROUP_BYTES = 2**28
"""Bytes of parameters that are read in one go."""

Structs = Mapping[str, jax.ShapeDtypeStruct]


@config_block
class MergeSettings:
    """How policies are merged.

    Attributes:
      method: how the experts' changes of the base are put together.
      lam: lambda of the method ``gaussian``.
      weights: one weight per expert for the method ``linear``; () for equal weights.
      dtype: of the weights written: ``stored`` (that of the base), ``float32`` or ``bfloat16``.
    """

    method: Annotated[str, OneOf(merges)] = "gaussian"
    lam: Annotated[float, Interval(gt=0), "Try 2"] = 2.0
    weights: tuple[float, ...] = ()
    dtype: Annotated[str, OneOf((STORED, *EXPORT_DTYPES))] = STORED

    def __post_init__(self):
        if self.weights and self.method != "linear":
            raise FieldError(
                "weights",
                f"must be () unless the method is linear; got {self.weights} with the method "
                f"{self.method!r}. Leave the weights out",
            )


def merge_policies(
    base: str, experts: Sequence[str], out: str | pathlib.Path, settings: MergeSettings
) -> None:
    """Writes the merged policy to ``out``, with the base's tokenizer and configuration files.

    The folder is written completely or not at all.

    Args:
      base: the policy that the experts were trained from: a work directory, a Hugging Face folder
        or hub id, or ``tiny``.
      experts: one or more policies of the same size and tokenizer, in any layout.
      out: new folder, or an empty one.
      settings: method, its weights, and the dtype written.

    Raises:
      UserError: policies that differ in size or tokenizer, no expert, not one weight per expert,
        or a folder that cannot be written.
    """
    out = user_path(out, "the new folder")
    check_new_folder(out)

    # Without weights all experts count the same.
    if not experts:
        raise UserError(
            "there is no expert to merge; name at least one policy trained from the base"
        )
    weights = settings.weights or (1 / len(experts),) * len(experts)
    if len(weights) != len(experts):
        raise UserError(
            f"there must be one weight per expert; got {len(weights)} weights for {len(experts)} "
            "experts; give one each, or none"
        )

    # Opening reads configurations and names only, so policies that do not fit fail at once.
    sources = [open_policy_source(name) for name in (base, *experts)]
    _check_compatible(sources)
    for source in sources:
        source.check_links()

    base_source = sources[0]
    dtype = settings.dtype
    if dtype == STORED:
        dtype = str(base_source.param_dtype(JANUS_TEXT_HEAD))

    # Merged parameters go to files, since all of them together may exceed the memory.
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent)
    except OSError as error:
        raise UserError(
            f"{str(out)!r} cannot be written ({error}); choose another folder"
        ) from None

    with scratch as scratch_folder:
        merged = _merge_params(sources, scratch_folder, settings, weights, dtype)
        layout = LAYOUTS["transformers"]
        save_folder(
            merged,
            base_source.cfg,
            base_source.tokenizer_folder,
            out,
            layout=layout,
            dtype=dtype,
            passthrough=passthrough_entries(base_source.janus_folder, layout),
        )


def _merge_params(
    sources: Sequence[PolicySource],
    scratch_folder: str,
    settings: MergeSettings,
    weights: Sequence[float],
    dtype: str,
) -> dict[str, Any]:
    """Merged parameters by path, as arrays in files of ``scratch_folder``; the base is first."""
    cfg = sources[0].cfg
    stacked = _stacked_paths(cfg)
    method = merges[settings.method]

    merged: dict[str, Any] = {}
    groups = _group_by_size(flatten_abstract(abstract(cfg)))
    for structs in tqdm(groups, desc="merge", unit="group", delay=1):
        params_of_source = [_read_to_host(source, structs) for source in sources]

        for path, struct in structs.items():
            # Arrays leave the dictionaries, so that their memory is free for the next parameter.
            base, *experts = (params.pop(path) for params in params_of_source)
            file = f"{scratch_folder}/{len(merged)}"
            out = np.memmap(file, EXPORT_DTYPES[dtype], "w+", shape=struct.shape)

            # A tensor of the checkpoint is one layer, and the method looks at one tensor at a time.
            for layer in range(len(out)) if path in stacked else [...]:
                expert_layers = [expert[layer] for expert in experts]
                out[layer] = method(base[layer], expert_layers, settings.lam, weights)
            merged[path] = out
    return merged


def _check_compatible(sources: Sequence[PolicySource]) -> None:
    """Raises UserError unless all policies have the sizes and the tokenizer of the first."""
    base, *experts = sources
    tokenizer = base.load_tokenizer()

    for expert in experts:
        if expert.cfg != base.cfg:
            # The first size that differs is enough for the error.
            base_sizes, expert_sizes = _sizes(base.cfg), _sizes(expert.cfg)
            name = next(name for name in base_sizes if base_sizes[name] != expert_sizes[name])
            raise UserError(
                f"policies {base.name!r} and {expert.name!r} must have the same sizes; got {name} "
                f"{base_sizes[name]} and {expert_sizes[name]}; merge policies trained from one base"
            )

        if not tokenizer.same_ids(expert.load_tokenizer()):
            raise UserError(
                f"policies {base.name!r} and {expert.name!r} must have the same tokenizer, or "
                "their weights mean different words; merge policies trained from one base"
            )


def _sizes(cfg: Any) -> Mapping[str, Any]:
    """All fields of a nested dataclass by dotted name."""
    sizes: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        # Vision tower, decoder and image tokenizer are dataclasses inside of the model's.
        value = vars(cfg)[field.name]
        if dataclasses.is_dataclass(value):
            sizes |= {f"{field.name}.{name}": size for name, size in _sizes(value).items()}
        else:
            sizes[field.name] = value
    return sizes


def _stacked_paths(cfg: JanusConfig) -> set[str]:
    """Paths of the parameters that stack all layers, each of which is merged by itself."""
    tensors = janus_tensors(cfg, LAYOUTS["transformers"]).values()
    stacked: set[str] = set()
    for tensor in tensors:
        stacked |= {part.path for part in tensor.slices if part.layer is not None}
    return stacked


def _group_by_size(structs: Structs) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Groups of parameters to read in one go: up to ``GROUP_BYTES``, or one larger parameter.

    Opening a checkpoint takes time, so parameters are not read one by one.
    """
    groups: list[dict[str, jax.ShapeDtypeStruct]] = []
    bytes_left = 0
    for path, struct in structs.items():
        size = math.prod(struct.shape) * struct.dtype.itemsize

        # A parameter larger than the limit has a group of its own.
        if not groups or size > bytes_left:
            groups.append({})
            bytes_left = GROUP_BYTES
        groups[-1][path] = struct
        bytes_left -= size
    return groups


def _read_to_host(source: PolicySource, structs: Structs) -> dict[str, np.ndarray]:
    """Reads parameters of a policy into host memory, by path."""
    first_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed_structs = {
        path: jax.ShapeDtypeStruct(struct.shape, source.param_dtype(path), sharding=first_device)
        for path, struct in structs.items()
    }

    # Via a device: work directories are restored by orbax, which returns arrays on devices.
    params = source.load_params(placed_structs)
    return {path: np.asarray(leaf) for path, leaf in params.items()}
