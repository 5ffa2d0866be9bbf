"""The table of docs/precision.md: what each rounding costs, in bfloat16 on the shipped base.

    python tests/roundings.py

Each row changes one place of the model and measures how far sampler and scorer are apart: by putting
back a rounding that ``models.products`` avoids, or by keeping one number more in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.evals.config import EvalPolicy
from corl_jax.evals.sampler_scorer_gap import measure_rounding_gaps
from corl_jax.models import attention_kernels, int8, language_model, layers, shared_prefix
from corl_jax.models.products import matmul_over_rows
from corl_jax.sampling.policy import Policy, abstract_model

GUIDANCE_SCALES = (1.0, 5.0)
PROMPTS, SAMPLES = 16, 8
RESIDUAL, HEADS = ("o_proj", "down_proj"), ("lm_head", "fc1", "fc2")
PLACES = (attention_kernels, int8, language_model, layers, shared_prefix)


def narrow(*names):
    """A change of a model: the products of these maps are rounded to bfloat16 at once."""

    def change(model):
        for _, module in list(nnx.iter_modules((model.language_model, model.gen_head))):
            for name, child in vars(module).items():
                if isinstance(child, nnx.Linear) and name in names:
                    child.dot_general = matmul_over_rows

    return change


def residual_in_float32(model):
    model.language_model.dtype = jnp.float32


def heads_in_float32(model):
    lm, head = model.language_model, model.gen_head
    lm.norm.output_dtype = lm.lm_head.dtype = head.dtype = head.fc1.dtype = jnp.float32
    head.fc2.dtype = jnp.float32


def cache_in_float32(model):
    for name in ("q_proj", "k_proj", "v_proj"):
        vars(model.language_model.layers.attention)[name].dtype = jnp.float32
    model.language_model.cache_dtype = jnp.float32


def unchanged(model):
    pass


def narrow_values(spec, a, b):
    """``wide_einsum`` that rounds mixed values to bfloat16 before they are normalized."""
    is_values = spec == "NKMS,NKSC->NKMC"
    return jnp.einsum(spec, a, b, preferred_element_type=None if is_values else jnp.float32)


@contextlib.contextmanager
def patched(name, function, places):
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(mock.patch.object(place, name, function))
        yield


def casts():
    """Roundings are casts, which XLA may drop."""
    return patched("round_to", lambda x, dtype: x.astype(dtype), PLACES)


def values():
    return patched("wide_einsum", narrow_values, (int8,))


@contextlib.contextmanager
def casts_and_values():
    with casts(), values():
        yield


ROWS = {
    "as it is": (unchanged, contextlib.nullcontext),
    "mixed values rounded before normalization": (unchanged, values),
    "what joins the residual stream rounded first": (narrow(*RESIDUAL), contextlib.nullcontext),
    "logits and the hidden layer of the image head rounded": (
        narrow(*HEADS),
        contextlib.nullcontext,
    ),
    "roundings as casts": (unchanged, casts),
    "all of these, as before": (narrow(*RESIDUAL, *HEADS), casts_and_values),
    "residual stream in float32": (residual_in_float32, contextlib.nullcontext),
    "heads in float32": (heads_in_float32, contextlib.nullcontext),
    "cache and attention weights in float32": (cache_in_float32, contextlib.nullcontext),
}
"""Row to a change of the model and a change of functions that its programs call."""


def main() -> None:
    """Prints the table as Markdown."""
    policy = Policy.load("tiny", dtype="bfloat16")

    print("| | guidance 1: mean gap, outside | guidance 5 | text |")
    print("|---|---|---|---|")
    for row, (change, patch) in ROWS.items():
        # Programs are cached by the model's definition, which patches of functions do not change.
        jax.clear_caches()
        model = abstract_model(policy.cfg, "bfloat16")
        change(model)
        fns = dataclasses.replace(policy.fns, graphdef=nnx.split(model)[0])
        subject = EvalPolicy(fns, policy.params, policy.tokenizer)

        cells = []
        with patch():
            for guidance in GUIDANCE_SCALES:
                gaps = measure_rounding_gaps(subject, guidance, prompts=PROMPTS, samples=SAMPLES)
                image = gaps[f"image@w={guidance:g}"]
                cells.append(f"{image.mean:.4f}, {image.outside:.2%}")
        cells.append(f"{gaps['text'].mean:.6f}")
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
