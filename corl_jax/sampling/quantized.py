"""A lighter policy to sample with, made once per step: weights, cache or both in eight bits.

In: a ``PolicyFns`` and the shapes of its parameters. Out: the sampler of the lighter model, and what makes its parameters
from those of the policy. What it samples is scored by the policy itself; the metric ``sampler_logp_diff`` says how far they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind, flatten
from corl_jax.core.types import Params
from corl_jax.models.int8 import quantize_int8
from corl_jax.sampling.generate import PolicyFns

KINDS = ("same", "int8")
"""How the sampler holds weights and cache: as the policy does, or in eight bits."""


def quantized_policy(
    sampler: PolicyFns, structs: Mapping[str, Any], *, weights: str, cache: str
) -> tuple[PolicyFns, Callable[[Params], Params]]:
    """A sampler and a function from the policy's parameters to its own; the same and nothing where both say ``same``.

    Args:
      sampler: of the policy.
      structs: shape and dtype of every parameter.
      weights, cache: of ``KINDS``.

    Raises:
      UserError: another word.
    """
    for what, kind in (("weights", weights), ("cache", cache)):
        if kind not in KINDS:
            raise UserError(
                f"rollout {what} {kind!r}: unknown kind; expected one of {', '.join(KINDS)}"
            )
    if weights == cache == "same":
        return sampler, lambda params: params

    def light(params: Any) -> Any:
        model = bind(sampler.graphdef, params)
        return quantize_int8(model, weights=weights == "int8", cache=cache == "int8")

    shape = nnx.eval_shape(
        lambda: light({path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in structs.items()})
    )
    return dataclasses.replace(sampler, graphdef=nnx.split(shape)[0]), jax.jit(
        lambda params: flatten(light(params))[1]
    )
