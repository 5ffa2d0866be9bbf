"""Checksums of arrays: what they notice, and that their spread over devices does not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from corl_jax.core.checksums import checksums
from corl_jax.core.sharding import make_mesh


def digest(array):
    return checksums({"x": jnp.asarray(array)})["x"].digest


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).standard_normal((8, 12, 3)).astype(np.float32)


def test_a_digest_is_dtype_shape_and_two_sums(array):
    words = [int(word) for word in array.ravel().view(np.uint32)]
    plain = sum(words) % 2**64
    weighted = sum(position * word for position, word in enumerate(words)) % 2**64
    assert digest(array) == f"float32[8,12,3] {plain:016x}{weighted:016x}"


@pytest.mark.parametrize("spec", [P(), P("data"), P("fsdp", "data"), P(("data", "fsdp"))])
def test_sharded_arrays_have_the_digest_of_whole_ones(array, spec):
    mesh = make_mesh({"data": 2, "fsdp": 4})
    assert digest(jax.device_put(array, NamedSharding(mesh, spec))) == digest(array)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_])
def test_every_flipped_bit_changes_the_digest(array, dtype):
    whole = np.array(jnp.asarray(array[:2, :2, :2]).astype(dtype))
    seen = {digest(whole)}
    # JAX reads every nonzero byte of a bool as True, so only the last bit is one.
    for byte in range(whole.nbytes):
        for bit in range(1 if dtype == jnp.bool_ else 8):
            flipped = bytearray(whole.tobytes())
            flipped[byte] ^= 1 << bit
            seen.add(digest(np.frombuffer(bytes(flipped), whole.dtype).reshape(whole.shape)))
    assert len(seen) == 1 + whole.nbytes * (1 if dtype == jnp.bool_ else 8)


def test_exchanged_rows_other_shapes_and_other_dtypes_change_the_digest(array):
    exchanged = array[[1, 0, *range(2, 8)]]
    variants = [array, exchanged, array.reshape(12, 8, 3), array.view(np.int32)]
    assert len({digest(variant) for variant in variants}) == 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_that_are_not_finite_are_noticed(dtype):
    arrays = {"one": jnp.ones((), dtype), "none": jnp.ones((0, 2), dtype), "count": jnp.arange(3)}
    arrays |= {"nan": jnp.full((2, 2), jnp.nan, dtype), "inf": jnp.asarray([0, -jnp.inf], dtype)}
    is_finite = {name: checksum.is_finite for name, checksum in checksums(arrays).items()}
    assert is_finite == {"one": True, "none": True, "count": True, "nan": False, "inf": False}
