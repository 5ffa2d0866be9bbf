"""The compiled loop over image tokens: the cache is carried in place, never copied; rows stay on their devices."""

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


def program(prompts: int, samples: int, tokens: int, place=None) -> str:
    """The optimised text of ``decode_image`` for prompts of 7 tokens, guided; rows lie as ``place`` says."""
    model = abstract(TINY, unroll=1)
    graphdef, _ = nnx.split(model)

    def run(params, asked, keys):
        sampling = SamplingParams(jnp.float32(2), jnp.float32(1))
        return decode_image(
            bind(graphdef, params),
            asked,
            keys,
            sampling,
            SpecialTokenIds(0, 1, 2, (0,)),
            True,
            tokens,
        )

    def rows(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    asked = Prompts(rows((prompts, 7), jnp.int32), rows((prompts, 7), bool))
    keys = rows((prompts, samples), jax.random.key(0).dtype)
    return jax.jit(run).lower(flatten_abstract(model), asked, keys).compile().as_text()


def test_no_cache_is_copied_inside_the_loop():
    prompts, samples, tokens = 2, 3, 9
    text, d = program(prompts, samples, tokens), TINY.decoder
    layer = f"{2 * prompts * samples},{d.kv_heads},{tokens - 1},{d.head_size}"  # behind the prompts, which are shared
    bodies = text[: text.index("\nENTRY")]
    assert re.search(rf"f32\[{d.depth},{layer}\]\S* (?:fusion|dynamic-update-slice)\(", bodies)
    assert not re.search(rf"f32\[(?:{d.depth},)?{layer}\]\S* copy(?:-start)?\(", bodies)


def test_devices_with_rows_of_their_own_exchange_nothing_per_token():
    """Both streams of a prompt lie side by side: to compare them, guidance asks no other device."""
    sharder = Sharder(make_mesh({"data": 4}, jax.devices()[:4]))
    with sharding_context(sharder):
        text = program(4, 3, 9, sharder.named_sharding("batch"))
    assert "num_partitions=4" in text
    exchanges = (
        r"(?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    )
    assert not re.findall(exchanges, text[: text.index("\nENTRY")])
