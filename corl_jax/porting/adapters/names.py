"""Names of adapted modules in PEFT's files, and the kernels that they belong to.

Compatible with peft 0.21: the adapter of the linear module ``NAME`` of the model in transformers is
stored as ``base_model.model.NAME.lora_A.weight`` ``[rank, inputs]`` and ``...lora_B.weight``
``[outputs, rank]``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus.folder import janus_tensors
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.rules import LINEAR, CheckpointTensor, ParamSlice

PREFIX = "base_model.model."
"""Stands before every name, since PEFT wraps the model twice."""
A_SUFFIX, B_SUFFIX = ".lora_A.weight", ".lora_B.weight"

Modules = Mapping[str, ParamSlice]
"""Module name to its kernel, or to the layer of a kernel that it is."""


def linear_modules(cfg: JanusConfig) -> dict[str, ParamSlice]:
    """Every linear module of the model in transformers that an adapter can belong to."""
    modules = {}
    for name, tensor in janus_tensors(cfg, LAYOUTS["transformers"]).items():
        module, weight, _ = name.rpartition(".weight")
        if weight and _is_linear(tensor):
            modules[module] = tensor.slices[0]
    return modules


def _is_linear(tensor: CheckpointTensor) -> bool:
    # In this layout no linear tensor is fused; embeddings and convolutions have other layouts.
    return len(tensor.slices) == 1 and tensor.slices[0].rule.layout is LINEAR


def target_pattern(names: Collection[str]) -> str:
    """A regular expression that matches exactly these modules and no other one of the model.

    PEFT compares the ends of names with a list of words, and ``q_proj`` would be an end of modules
    of the vision tower too.
    """
    # Layers differ in their number alone.
    escaped = {re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names}
    return "|".join(sorted(escaped))


def kind_of(name: str) -> str:
    """The name of a module with ``*`` in the place of the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", name)
