"""Speed of attention kernels at sizes like training's, compared with the plain kernel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corl_jax.bench.timing import LogLine, median_ms
from corl_jax.bench.workloads import check_size
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.runtime import compute_dtype
from corl_jax.models.attention_kernels import PLAIN, available_kernels, check_kernel, kernels
from corl_jax.sampling.prompt_layout import prompt_mask


@dataclasses.dataclass(frozen=True)
class KernelOptions:
    """What ``corl bench kernels`` runs.

    Attributes:
      size: ``dot``, ``tiny``, ``mid`` or ``janus_pro_1b``: heads and lengths.
      repeats: timings of every kernel.
    """

    size: str
    repeats: int


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of one size: causal, over left-padded prompts and completions.

    Attributes:
      name: of the completions.
      rows: sequences at once.
      prompt, completion: their lengths in tokens.
      heads, head_size: of the queries; there are as many key/value heads.
    """

    name: str
    rows: int
    prompt: int
    completion: int
    heads: int
    head_size: int

    @property
    def length(self) -> int:
        """Tokens of prompt and completion, ``L``."""
        return self.prompt + self.completion


@dataclasses.dataclass(frozen=True)
class KernelTiming:
    """Speed and exactness of a kernel on a case.

    Attributes:
      kernel: its name.
      case: what it computes.
      forward_ms: median milliseconds of the value.
      backward_ms: median milliseconds of value and gradient together.
      deviation: largest difference from the plain kernel in value and gradient; None where the
        plain one failed.
    """

    kernel: str
    case: Case
    forward_ms: float
    backward_ms: float
    deviation: float | None


class AttentionInputs(NamedTuple):
    """Random inputs of a case, and what its loss needs besides them."""

    q: Float[Array, "N L H C"]
    k: Float[Array, "N H L C"]
    v: Float[Array, "N H L C"]
    loss_weights: Float[Array, "N L H C"]
    token_mask: Bool[Array, "N L"]


def run_benchmark(options: KernelOptions, log: LogLine) -> dict[str, Any]:
    """Prints a table of all kernels on all cases.

    Returns:
      the values for JSON. ``ours`` and ``theirs`` are milliseconds of all cases on the fastest
      kernel and on the plain one, None where none ran all cases. ``failed`` says which kernels
      failed.

    Raises:
      UserError: an unknown size.
    """
    check_size(options.size)

    # The dtype in which corl_jax computes on this backend.
    dtype = compute_dtype("auto")
    dtype_name = jnp.dtype(dtype).name
    print(
        f"{'case':8} {'rows x length x heads x size':>28} {'kernel':>8} {'forward':>9} "
        f"{'backward':>9} {'deviation':>9}"
    )

    # One row per kernel and case, and totals per kernel.
    entries: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    totals: dict[str, float] = {}
    for case in make_cases(options.size):
        timings, refusals, failures = time_kernels(case, options.repeats, dtype)
        for timing in timings:
            print(format_row(timing))
            total = timing.forward_ms + timing.backward_ms
            totals[timing.kernel] = totals.get(timing.kernel, 0.0) + total
            case_entry = vars(case) | {"length": case.length}
            entries.append(vars(timing) | {"case": case_entry})

        for message in refusals.values():
            log(message)
        for name, message in failures.items():
            print(f"{case.name:8} {name} failed: {message}", flush=True)
            failed.append({"kernel": name, "case": case.name, "error": message})

    # The fastest kernel over all cases, forward and backward.
    for name in {failure["kernel"] for failure in failed}:
        totals.pop(name, None)
    best = min(totals, key=lambda name: totals[name], default=None)
    ours = None if best is None else totals[best]
    theirs = totals.get(PLAIN)
    print(f"milliseconds; backward is value and gradient; {dtype_name}; fastest in all: {best}")
    return {
        "size": options.size,
        "against": PLAIN,
        "best": best,
        "ours": ours,
        "theirs": theirs,
        "ratio": None if ours is None or theirs is None else theirs / ours,
        "unit": "ms",
        "dtype": dtype_name,
        "kernels": entries,
        "failed": failed,
    }


def format_row(timing: KernelTiming) -> str:
    """One line of the table."""
    case = timing.case
    shape = f"{case.rows} x {case.length} x {case.heads} x {case.head_size}"
    deviation = f"{'-':>9}" if timing.deviation is None else f"{timing.deviation:9.1e}"
    times = f"{timing.forward_ms:9.2f} {timing.backward_ms:9.2f} {deviation}"
    return f"{case.name:8} {shape:>28} {timing.kernel:>8} {times}"


def make_cases(size: str) -> tuple[Case, ...]:
    """Image tokens after short prompts, and answers after questions about an image."""
    # Sizes of the models in ``workloads``.
    rows, image_tokens, heads, head_size = {
        "dot": (2, 4, 2, 16),
        "tiny": (16, 36, 4, 32),
        "mid": (4, 576, 8, 64),
        "janus_pro_1b": (16, 576, 16, 128),
    }[size]

    # The last image token and the last token of an answer are never fed back.
    return (
        Case("image", rows, 20, image_tokens - 1, heads, head_size),
        Case("answers", rows, image_tokens + 24, 63, heads, head_size),
    )


def time_kernels(
    case: Case, repeats: int, dtype: DTypeLike
) -> tuple[list[KernelTiming], dict[str, str], dict[str, str]]:
    """Times every kernel of this backend on a case.

    Returns:
      timings, the plain kernel first; and for the kernels that cannot run the case, and for those
      that failed on it, name to reason.
    """
    inputs = random_inputs(case, dtype)
    platform = jax.default_backend()
    timings: list[KernelTiming] = []
    refusals: dict[str, str] = {}
    failures: dict[str, str] = {}
    plain_outputs = None

    for name in available_kernels(platform):
        try:
            check_kernel(name, platform, (case.head_size,), dtype)
        # A kernel that this case does not suit is no reason to stop.
        except UserError as error:
            refusals[name] = str(error)
            continue

        # Nor is one that fails: kernels call libraries, whose errors may be of any class. The plain
        # kernel comes first, and the others are compared with it.
        try:
            timing, outputs = time_kernel(name, case, inputs, repeats, plain_outputs)
        except Exception as error:
            failures[name] = describe_error(error)
            continue
        plain_outputs = outputs if name == PLAIN else plain_outputs
        timings.append(timing)

    return timings, refusals, failures


def time_kernel(
    name: str,
    case: Case,
    inputs: AttentionInputs,
    repeats: int,
    plain_outputs: tuple[jax.Array, ...] | None,
) -> tuple[KernelTiming, tuple[jax.Array, ...]]:
    """Times one kernel; also returns its value and gradients."""
    forward, backward = kernel_functions(name, inputs)
    grads, value = backward(inputs.q, inputs.k, inputs.v)
    outputs = (value, *grads)

    deviation = None
    if name == PLAIN or plain_outputs is not None:
        differences = [
            jnp.max(jnp.abs(array.astype(jnp.float32) - plain))
            for array, plain in zip(outputs, plain_outputs or outputs, strict=True)
        ]
        deviation = float(max(differences))

    # Both are compiled by the first call, which is not timed.
    forward_ms, backward_ms = (
        median_ms(functools.partial(fn, inputs.q, inputs.k, inputs.v), repeats)
        for fn in (forward, backward)
    )
    return KernelTiming(name, case, forward_ms, backward_ms, deviation), outputs


def random_inputs(case: Case, dtype: DTypeLike) -> AttentionInputs:
    """Normal queries, keys and values, and prompts with up to 3 positions of padding."""
    rows, length = case.rows, case.length
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (rows, length, case.heads, case.head_size), dtype)
    k, v = (
        jax.random.normal(key, (rows, case.heads, length, case.head_size), dtype)
        for key in keys[1:3]
    )
    loss_weights = jax.random.normal(keys[3], q.shape, dtype)

    # The number of padding positions differs from row to row.
    padding = jnp.arange(rows)[:, None] % 4
    is_prompt = jnp.arange(case.prompt) >= padding
    token_mask = jnp.pad(is_prompt, ((0, 0), (0, length - case.prompt)), constant_values=True)
    return AttentionInputs(q, k, v, loss_weights, token_mask)


def kernel_functions(
    name: str, inputs: AttentionInputs
) -> tuple[Callable[..., jax.Array], Callable[..., Any]]:
    """Jitted functions of ``(q, k, v)``: the value, and gradients of a loss with the value."""
    attend = kernels[name].attend
    attention_mask = prompt_mask(inputs.token_mask)
    output_mask = inputs.token_mask[..., None, None]

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Outputs at padding are never used, and kernels differ there.
        value = jnp.where(output_mask, attend(q, k, v, attention_mask), 0)
        return jnp.sum((value * inputs.loss_weights).astype(jnp.float32)), value

    forward = jax.jit(lambda *args: loss(*args)[1])
    backward = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    return forward, backward
