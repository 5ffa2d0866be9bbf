"""The compiled loop over image tokens: no copy of the cache, and no exchange between devices."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.core.types import Prompts
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract
from corl_jax.objectives.sampling_distribution import SamplingParams
from corl_jax.sampling.decode import decode_image
from corl_jax.sampling.prompt_layout import SpecialTokenIds


def compiled_text(prompts: int, samples: int, tokens: int, sharding=None) -> str:
    """The optimized text of ``decode_image`` with guidance, for prompts of 7 tokens.

    Args:
      tokens: image tokens per sample.
      sharding: of the rows.
    """
    model = abstract(TINY, unroll=1)
    graphdef, _ = nnx.split(model)
    ids = SpecialTokenIds(0, 1, 2, (0,))

    def run(params, prompt_rows, keys):
        sampling = SamplingParams(jnp.float32(2), jnp.float32(1))
        return decode_image(bind(graphdef, params), prompt_rows, keys, sampling, ids, True, tokens)

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    prompt_rows = Prompts(rows((prompts, 7), jnp.int32), rows((prompts, 7), bool))
    keys = rows((prompts, samples), jax.random.key(0).dtype)
    return jax.jit(run).lower(flatten_abstract(model), prompt_rows, keys).compile().as_text()


def loop_bodies(text: str) -> str:
    """All computations but the entry."""
    return text[: text.index("\nENTRY")]


def test_no_cache_is_copied_inside_the_loop():
    prompts, samples, tokens = 2, 3, 9
    bodies, d = loop_bodies(compiled_text(prompts, samples, tokens)), TINY.decoder
    # The part of the cache behind the prompts, which are shared.
    layer = f"{2 * prompts * samples},{d.kv_heads},{tokens - 1},{d.head_size}"
    assert re.search(rf"f32\[{d.depth},{layer}\]\S* (?:fusion|dynamic-update-slice)\(", bodies)
    assert not re.search(rf"f32\[(?:{d.depth},)?{layer}\]\S* copy(?:-start)?\(", bodies)


def test_devices_exchange_nothing_per_token():
    """Conditional and unconditional rows of a prompt are on one device, for guidance."""
    sharder = Sharder(make_mesh({"data": 4}, jax.devices()[:4]))
    with sharding_context(sharder):
        text = compiled_text(4, 3, 9, sharder.named_sharding("batch"))
    assert "num_partitions=4" in text
    collectives = (
        r"(?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    )
    assert not re.findall(collectives, loop_bodies(text))
