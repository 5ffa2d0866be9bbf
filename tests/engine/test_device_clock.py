"""Seconds of programs, measured beside the thread that dispatches them."""

import time

import jax
import jax.numpy as jnp

from corl_jax.engine.device_clock import DeviceClock


def test_programs_are_timed_in_order_and_waiting_is_not_counted():
    clock = DeviceClock()

    @jax.jit
    def multiply(x):
        return jax.lax.fori_loop(0, 40, lambda i, y: jnp.tanh(y @ x), x)

    x = jnp.eye(400)
    jax.block_until_ready(multiply(x))
    begin = time.perf_counter()
    first = multiply(x)
    times = [clock.time(begin, first)]
    times.append(clock.time(begin, multiply(first)))
    seconds = [timing.seconds() for timing in times]
    total = time.perf_counter() - begin

    # The second one waited for the first, which is the time of the first alone.
    assert all(value > 0 for value in seconds) and sum(seconds) <= total
    time.sleep(0.2)
    idle = clock.time(time.perf_counter(), first)
    assert idle.seconds() < 0.1


def test_an_array_that_failed_does_not_end_the_clock():
    clock = DeviceClock()
    gone = jnp.ones(3) + 1
    gone.delete()
    assert clock.time(time.perf_counter(), gone).seconds() >= 0
    assert clock.time(time.perf_counter(), jnp.ones(3)).seconds() >= 0
