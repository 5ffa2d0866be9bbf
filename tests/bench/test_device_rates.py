"""Rates of the device, the least bytes of decoding, and the shares that benchmarks print."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from corl_jax.bench import device_rates
from corl_jax.bench.device_rates import DeviceRates, chip_name, least_decode_bytes
from corl_jax.bench.step_speed import StepOptions, format_mfu, update_mfu
from corl_jax.bench.timing import StepTiming
from corl_jax.bench.workloads import DOT

RATES = DeviceRates(copy_gb_s=100.0, matmul_tflop_s=2.0, dtype="float32")


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(device_rates, "CPU_COPY_BYTES", 2**22)
    monkeypatch.setattr(device_rates, "CPU_MATMUL_SIZE", 128)
    rates = device_rates.measure_device_rates()
    # From a slow machine that others use to a fast one.
    assert 0.1 < rates.copy_gb_s < 10_000 and 1e-4 < rates.matmul_tflop_s < 100
    assert rates.dtype == "float32" and "float32 matmul" in str(rates)


def test_bytes_and_flops_are_divided_by_seconds(monkeypatch):
    """A call takes half a second: 2 MiB read and written, and 2 * 64^3 FLOPs."""
    monkeypatch.setattr(device_rates, "_seconds_per_call", lambda call: (call(), 0.5)[1])
    assert device_rates._copy_rate(2**20) == 2 * 2**20 / 0.5
    assert device_rates._matmul_rate(64, jnp.dtype(jnp.float32)) == 2 * 64**3 / 0.5


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", None),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v7", None),
        ("cpu", None),
    ],
)
def test_chips_are_known_by_their_kind(kind, name):
    assert chip_name(kind) == name


def test_least_bytes_are_weights_and_the_filled_cache():
    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {
        "language_model/layers/attention/q/kernel": array((2, 32, 32), jnp.bfloat16),
        "language_model/norm/scale": array((32,), jnp.float32),
        "gen_head/out/kernel": array((32, 32), jnp.bfloat16),
        # Not read while images are decoded, or only by the row.
        "language_model/embed/embedding": array((72, 32), jnp.bfloat16),
        "language_model/lm_head/kernel": array((32, 72), jnp.bfloat16),
    }
    weights = 2 * 32 * 32 * 2 + 32 * 4 + 32 * 32 * 2
    assert least_decode_bytes(params, DOT, 0, 1, 20) == weights

    # Keys and values of 2 layers, 2 heads of 16 numbers, float32. Of 4 image tokens 0, 1, 2 and 3
    # are cached when the next is sampled; 3 prompts, twice, are cached once for 5 samples each.
    position = 2 * 2 * 2 * 16 * 4
    cached = 2 * 3 * 20 + 2 * 15 * (0 + 1 + 2 + 3) / 4
    assert least_decode_bytes(params, DOT, 3, 5, 20) == weights + position * cached


def test_mfu_is_a_share_of_the_measured_rate_and_of_the_peak(monkeypatch):
    timing = StepTiming({"corl_jax": {"update": 4.0}}, 1.0, None, update_flops=2e12)
    options = StepOptions("dot", "nothing", 2, 8, devices=1, peak_tflop_s={"h100": 10.0})
    mfu = update_mfu(timing, RATES, options)
    assert mfu == {"of_measured": 0.25}
    assert "MFU 25.0%;" in format_mfu(timing, RATES, mfu)

    from corl_jax.bench import step_speed

    monkeypatch.setattr(step_speed, "chip_name", lambda kind: "h100")
    mfu = update_mfu(timing, RATES, options)
    assert mfu == {"of_measured": 0.25, "of_peak": 0.05}
    assert "MFU 25.0% (5.0% of the chip's peak);" in format_mfu(timing, RATES, mfu)

    # Threads of one CPU share what was measured of one.
    options = StepOptions("dot", "nothing", 2, 8, devices=2)
    assert update_mfu(timing, RATES, options) is None
    assert format_mfu(timing, RATES, None) == str(RATES)
