"""Maps turned round for decoding: the same numbers, and in eight bits nothing is touched."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.sharding import Sharder, make_mesh, use
from corl_jax.models.decoder import Block
from corl_jax.models.eight_bits import Int8Linear
from corl_jax.models.layers import Mlp2, linear, rotary
from corl_jax.models.turned import Turned, join, turn


@pytest.fixture
def block(tiny_decoder_config):
    return Block(tiny_decoder_config, "einsum", jnp.float32, nnx.Rngs(0))


@pytest.fixture(scope="module")
def tiny_decoder_config():
    from corl_jax.models.config import DecoderConfig

    return DecoderConfig(vocab_size=16, width=32, depth=1, heads=4, kv_heads=2, head_size=8, mlp_dim=24, max_length=8)


def run(block):
    """Two rows of three tokens through a block."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 32)), jnp.float32)
    rope = rotary(jnp.broadcast_to(jnp.arange(3), (2, 3)), 8, 1e4)
    return block(x, rope, jnp.tril(jnp.ones((2, 3, 3), bool)), None, 0, 0)[0]


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_turned_block_gives_the_same_numbers(block, tensor):
    """Grouped heads included; where heads lie on several devices maps are turned one by one."""
    plain = run(block)
    with use(Sharder(make_mesh({"data": 1, "fsdp": 1, "tensor": tensor}, jax.devices()[:tensor]))):
        turned = block.turn()
        assert (turned.joined is not None) == (turned.attention.joined is not None) == (tensor == 1)
        assert isinstance(turned.down_proj, Turned) and isinstance(turned.up_proj, Turned) == (tensor == 2)
        np.testing.assert_allclose(run(turned), plain, rtol=1e-5, atol=1e-6)


def test_biases_and_parts():
    mlp = Mlp2(5, 7, 3, ("embed", "mlp"), dtype=jnp.float32, rngs=nnx.Rngs(0))
    mlp.fc1.bias[...] = jnp.arange(7.0)
    x = jnp.ones((2, 4, 5))
    plain, both = mlp(x), join(mlp, "fc1", "fc1")
    for part in both.parts(x):
        np.testing.assert_allclose(part, mlp.fc1(x), rtol=1e-6)
    turn(mlp, "fc1", "fc2")
    np.testing.assert_allclose(mlp(x), plain, rtol=1e-5, atol=1e-6)


def test_what_is_in_eight_bits_stays(block):
    light = Int8Linear(linear(32, 24, ("embed", "mlp"), bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    block.gate_proj, block.up_proj, block.down_proj = light, light, Int8Linear(block.down_proj)
    plain = run(block)
    turned = block.turn()
    assert turned.joined is None and turned.gate_proj is light and isinstance(turned.down_proj, Int8Linear)
    np.testing.assert_allclose(run(turned), plain, rtol=1e-5, atol=1e-6)
