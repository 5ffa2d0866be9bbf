"""The compiled loop over image tokens in the form for accelerators: the cache is carried in place, never copied."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.core.types import Prompts
from corl_jax.models.config import TINY
from corl_jax.models.unified import abstract
from corl_jax.objectives.distribution import Sampling
from corl_jax.sampling.decode import decode_image
from corl_jax.sampling.layout import SpecialIds


def test_no_cache_is_copied_inside_the_loop():
    prompts, samples, width, tokens = 2, 3, 7, 9
    model = abstract(TINY, unroll=1)
    graphdef, _ = nnx.split(model)

    def run(params, asked, keys):
        sampling = Sampling(jnp.float32(2), jnp.float32(1))
        return decode_image(bind(graphdef, params), asked, keys, sampling, SpecialIds(0, 1, 2, (0,)), True, tokens)

    shape = jax.ShapeDtypeStruct
    asked = Prompts(shape((prompts, width), jnp.int32), shape((prompts, width), bool))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (prompts, samples)))
    text = jax.jit(run).lower(flatten_abstract(model), asked, keys).compile().as_text()
    d = TINY.decoder
    layer = f"{2 * prompts * samples},{d.kv_heads},{tokens - 1},{d.head_size}"  # behind the prompts, which are shared
    bodies = text[: text.index("\nENTRY")]
    assert re.search(rf"f32\[{d.depth},{layer}\]\S* (?:fusion|dynamic-update-slice)\(", bodies)
    assert not re.search(rf"f32\[(?:{d.depth},)?{layer}\]\S* copy(?:-start)?\(", bodies)
