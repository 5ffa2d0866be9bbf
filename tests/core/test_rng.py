import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.rng import sample_keys, stream


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_streams_differ_by_seed_name_and_step_and_repeat():
    keys = [
        stream(s, n, t) for s in (0, 1) for n in ("image", "text", "shuffle") for t in (0, 1, 2)
    ]
    assert len({bits(key) for key in keys}) == len(keys)
    assert bits(stream(1, "text", 2)) == bits(stream(1, "text", jnp.asarray(2)))
    assert bits(jax.jit(lambda step: stream(1, "text", step))(2)) == bits(stream(1, "text", 2))


def test_name_is_hashed_the_same_in_every_process():
    import zlib

    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), zlib.crc32(b"image")), 7)
    assert bits(stream(3, "image", 7)) == bits(expected)


def test_sample_keys_follow_the_id_not_the_layout():
    key = stream(0, "image", 5)
    among_eight = jax.random.uniform(sample_keys(key, 8)[3])
    only_one = jax.random.uniform(sample_keys(key, jnp.asarray([3]))[0])
    reordered = jax.random.uniform(sample_keys(key, jnp.asarray([6, 1, 3, 0]))[2])
    assert among_eight == only_one == reordered
    assert len({bits(k) for k in sample_keys(key, 8)}) == 8


def test_sample_keys_are_the_same_on_a_split_batch():
    key = stream(0, "text")
    halves = [
        jax.random.key_data(sample_keys(key, jnp.arange(start, start + 4))) for start in (0, 4)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), jax.random.key_data(sample_keys(key, 8)))
