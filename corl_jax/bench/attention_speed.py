"""Attention kernels against the plain one, at sizes like training's. In: cases; out: milliseconds and deviations."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.errors import UserError
from corl_jax.models.attention_kernels import available, check, kernels
from corl_jax.sampling.prompt_layout import prompt_mask

PLAIN = "einsum"


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of a left-padded ``prompt`` and a ``completion``, in tokens, each of which sees what is before it."""

    name: str
    rows: int
    prompt: int
    completion: int
    heads: int
    head_size: int

    @property
    def length(self) -> int:
        """``L``."""
        return self.prompt + self.completion


def cases(size: str) -> tuple[Case, ...]:
    """Image tokens behind short prompts, and answers behind questions with a picture.

    Args:
      size: ``dot``, ``tiny``, ``mid`` or ``janus_pro_1b``, as for the other benchmarks.
    """
    rows, image_tokens, heads, head_size = {
        "dot": (2, 4, 2, 16),
        "tiny": (16, 36, 4, 32),
        "mid": (4, 576, 8, 64),
        "janus_pro_1b": (16, 576, 16, 128),
    }[size]
    return (
        Case("image", rows, 20, image_tokens - 1, heads, head_size),
        Case("answers", rows, image_tokens + 24, 63, heads, head_size),
    )


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median milliseconds of a kernel on a case, and its largest deviation from the plain one in value and gradient."""

    kernel: str
    case: Case
    forward_ms: float
    backward_ms: float
    deviation: float


def measure(case: Case, repeats: int, dtype: Any) -> tuple[list[Timing], dict[str, str]]:
    """Every kernel that this backend has; why others cannot take the case, by name.

    ``backward_ms`` is of value and gradient together.
    """
    n, heads, size, length = case.rows, case.heads, case.head_size, case.length
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (n, length, heads, size), dtype)
    k, v = (jax.random.normal(key, (n, heads, length, size), dtype) for key in keys[1:3])
    weights = jax.random.normal(keys[3], q.shape, dtype)
    real = jnp.arange(case.prompt) >= jnp.arange(n)[:, None] % 4  # up to 3 positions of padding
    whole = jnp.pad(real, ((0, 0), (0, length - case.prompt)), constant_values=True)
    mask, seen = prompt_mask(whole), whole[..., None, None]
    found, refused, plain = [], {}, None
    platform = jax.default_backend()
    for name in available(platform):
        try:
            check(name, platform, (size,), dtype)
        except UserError as error:
            refused[name] = str(error)
            continue
        mix = kernels[name].attend

        def loss(q: Any, k: Any, v: Any, mix: Any = mix) -> tuple[jax.Array, jax.Array]:
            out = jnp.where(seen, mix(q, k, v, mask), 0)
            return jnp.sum((out * weights).astype(jnp.float32)), out

        forward = jax.jit(lambda *args, loss=loss: loss(*args)[1])
        backward = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
        grads, out = backward(q, k, v)
        plain = (out, *grads) if plain is None else plain
        gaps = [
            jnp.max(jnp.abs(a.astype(jnp.float32) - b))
            for a, b in zip((out, *grads), plain, strict=True)
        ]
        taken = [
            milliseconds(functools.partial(call, q, k, v), repeats) for call in (forward, backward)
        ]
        found.append(Timing(name, case, taken[0], taken[1], float(max(gaps))))
    return found, refused


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of ``repeats`` calls after one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)
