"""A policy that samples from int8 weights, an int8 KV cache, or both; made anew in every step.

The log-probs of the loss come from the policy itself, never from this one. The metric
``sampler_logp_diff`` says how far they are apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind, flatten
from corl_jax.core.types import Params
from corl_jax.models.int8 import quantize_int8
from corl_jax.sampling.generate import PolicyFns

SAMPLER_DTYPES = ("same", "int8")
"""Dtypes of the sampler's weights and cache: the policy's own, or eight bits."""


def quantized_policy(
    policy: PolicyFns,
    param_specs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    weights_dtype: str,
    cache_dtype: str,
) -> tuple[PolicyFns, Callable[[Params], Params]]:
    """The programs of the quantized policy, and a function that makes its parameters.

    Args:
      policy: the policy to quantize.
      param_specs: shape and dtype of its parameters.
      weights_dtype, cache_dtype: of ``SAMPLER_DTYPES``; with both ``same`` the policy comes back as
        it is, with a function that changes nothing.

    Raises:
      UserError: another dtype.
    """
    for name, dtype in (("weights", weights_dtype), ("cache", cache_dtype)):
        if dtype not in SAMPLER_DTYPES:
            raise UserError(
                f"the {name} dtype of rollouts must be one of {', '.join(SAMPLER_DTYPES)}; "
                f"got {dtype!r}"
            )
    # The common case costs nothing: the same programs over the same arrays.
    if weights_dtype == cache_dtype == "same":
        return policy, lambda params: params

    def quantize(params: Params) -> nnx.Module:
        model = bind(policy.graphdef, params)
        return quantize_int8(model, weights=weights_dtype == "int8", cache=cache_dtype == "int8")

    # The definition of the quantized model follows from shapes alone.
    model = nnx.eval_shape(
        lambda: quantize(
            {path: jnp.zeros(spec.shape, spec.dtype) for path, spec in param_specs.items()}
        )
    )
    quantized = dataclasses.replace(policy, graphdef=nnx.split(model)[0])
    return quantized, jax.jit(lambda params: flatten(quantize(params))[1])
