"""``corl bench``: contenders at a very small size, tables, JSON files, and refused input."""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from corl_jax.bench import (
    attention_speed,
    data_speed,
    decode_contenders,
    decode_speed,
    scaling,
    step_speed,
    workloads,
)
from corl_jax.bench.decode_contenders import corl_jax_contender
from corl_jax.bench.decode_speed import DecodeOptions
from corl_jax.bench.device_rates import DeviceRates
from corl_jax.bench.step_speed import StepOptions
from corl_jax.bench.timing import PHASES, StepTiming, time_call
from corl_jax.bench.workloads import DOT, Workload, make_image_prompts, write_policy
from corl_jax.commands import bench
from corl_jax.commands.cli import main, make_parser
from corl_jax.core.errors import UserError
from corl_jax.core.trees import matches
from corl_jax.models.janus.model import JANUS_FLOAT32_PATTERNS
from corl_jax.sampling.policy import Policy

# Of a device that is much faster than this machine.
RATES = DeviceRates(copy_gb_s=100.0, matmul_tflop_s=1.0, dtype="float32")
# The same program in all tests, which compiles once.
GROUPS = ["--samples", "8", "--group", "2"]


@pytest.fixture(scope="module")
def dot_policy():
    return workloads.make_random_policy(DOT)


@pytest.fixture(autouse=True)
def keep_compilation_cache(monkeypatch):
    """Other tests need the cache that ``corl bench`` turns off."""
    monkeypatch.setattr(bench, "_turn_off_compilation_cache", lambda: None)


@pytest.mark.parametrize("devices", [1, 2])
def test_corl_jax_samples_a_group_per_prompt(dot_policy, devices):
    prompts = make_image_prompts(dot_policy.tokenizer, 4)
    assert prompts.tokens.shape == (4, 20) and prompts.mask.all()
    assert len({row.tobytes() for row in prompts.tokens}) == 4

    contender = corl_jax_contender(dot_policy, prompts, 2, devices)
    seconds, tokens = time_call(contender.sample)
    assert seconds > 0 and tokens.shape == (8, 4) and tokens.min() >= 0 and tokens.max() < 32
    assert contender.decode_pixels(tokens).shape == (8, 16, 16, 3)
    assert set(contender.seconds) == {"compile"}


def test_texts_end_where_the_median_says(tmp_path):
    """Both programs sample the same texts; the one with fewer rows later on is timed beside."""
    path = tmp_path / "text.json"
    args = ["--prompts", "8", "--group", "4", "--length", "150", "--median", "9", "--repeats", "2"]
    assert main(["bench", "text", "--size", "dot", *args, "--json", str(path)]) == 0
    values = json.loads(path.read_text())
    assert 5 < values["median_length"] < 14 and 20 < values["max_length"] < 150
    assert values["ratio"] > 0 and values["largest_log_prob_difference"] < 1e-4
    assert values["ours"] == pytest.approx(values["theirs"] * values["ratio"], rel=0.5)


def test_random_weights_are_those_that_the_folder_holds(dot_policy, tmp_path):
    loaded = Policy.load(write_policy(dot_policy, tmp_path))
    assert loaded.cfg == dot_policy.cfg and loaded.fns == dot_policy.fns
    assert set(loaded.params) == set(dot_policy.params)
    for path, leaf in loaded.params.items():
        np.testing.assert_array_equal(leaf, dot_policy.params[path])
    assert np.std(loaded.params["language_model/lm_head/kernel"]) > 0.01


def test_weights_for_sampling_are_kept_as_they_are_multiplied(monkeypatch):
    """On an accelerator matrices are bfloat16; vectors and the image tokenizer stay float32."""
    monkeypatch.setattr(workloads, "compute_dtype", lambda name: jnp.bfloat16)
    # Shapes and dtypes will do.
    monkeypatch.setattr(jax, "jit", lambda make: functools.partial(jax.eval_shape, make))
    dtypes = {path: leaf.dtype for path, leaf in workloads.make_random_policy(DOT).params.items()}
    assert dtypes["language_model/lm_head/kernel"] == jnp.bfloat16
    assert dtypes["language_model/norm/scale"] == jnp.float32
    exact = {dtype for path, dtype in dtypes.items() if matches(path, JANUS_FLOAT32_PATTERNS)}
    assert exact == {jnp.dtype(jnp.float32)}


def test_decode_alone_writes_no_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(decode_speed, "write_policy", lambda *args: pytest.fail("a folder"))
    monkeypatch.setattr(decode_speed, "check_torch", lambda: pytest.fail("torch"))
    monkeypatch.setattr(decode_speed, "measure_device_rates", lambda: RATES)
    json_file = tmp_path / "speed.json"
    line = ["bench", "decode", "--size", "dot", "--against", "nothing", "--json", str(json_file)]
    assert main([*line, *GROUPS]) == 0
    table = capsys.readouterr().out

    values = json.loads(json_file.read_text())
    assert values["theirs"] is values["ratio"] is values["theirs_error"] is None
    assert (values["samples"], values["group"]) == (8, 2)
    token_steps = values["ours"] / 8
    share = token_steps * values["least_bytes_per_token_step"] / (RATES.copy_gb_s * 1e9)
    assert values["bandwidth_share"] == pytest.approx(share)
    assert f"{values['ours']:.1f}" in table and "8 samples, 4 prompts x 2" in table
    assert "transformers" not in table


def test_theirs_failing_leaves_ours(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="without torch the command ends before it measures")

    def fail(*args):
        raise TypeError("_prepare_static_cache() missing 1\nargument")

    monkeypatch.setattr(decode_speed, "transformers_contender", fail)
    monkeypatch.setattr(decode_speed, "measure_device_rates", lambda: RATES)
    json_file = tmp_path / "speed.json"
    line = ["bench", "decode", "--size", "dot", "--repeats", "1", "--json", str(json_file)]
    assert main([*line, *GROUPS]) == 0
    table = capsys.readouterr().out
    message = "TypeError: _prepare_static_cache() missing 1 argument"
    assert f"transformers failed: {message}\n" in table

    values = json.loads(json_file.read_text())
    assert values["theirs_error"] == message and values["theirs"] is values["ratio"] is None
    assert values["ours"] > 0 and f"{values['ours']:.1f}" in table


def test_decode_times_both_contenders(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="transformers needs torch")
    json_file, trace = tmp_path / "speed.json", tmp_path / "trace"
    monkeypatch.setattr(decode_speed, "measure_device_rates", lambda: RATES)
    line = ["bench", "decode", "--size", "dot", "--profile", str(trace), "--json", str(json_file)]
    assert main([*line, *GROUPS]) == 0
    table, progress = capsys.readouterr()

    values = json.loads(json_file.read_text())
    assert values["ours"] > 0
    assert values["ratio"] == pytest.approx(values["ours"] / values["theirs"])
    assert values["unit"] == "image tokens/s"
    assert {"torch", "transformers", "jax"} <= set(values["versions"])
    assert set(values["seconds"]["ours"]) == {"load", "compile", "pixels"}
    assert set(values["seconds"]["theirs"]) == {"load", "pixels"}
    assert values["torch_threads"] >= 1
    assert list(trace.rglob("*.xplane.pb"))
    assert f"{values['ours']:.1f}" in table and "transformers" in table
    assert "turn 2 of 2, ours: " in progress and "turn 2 of 2, theirs: " in progress


def test_step_prints_and_writes_phases(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the JSON file has its version")
    calls, cpu_devices = [], []
    seconds = {"rollout_image": 1.0, "rollout_text": 0.5, "update": 2.5, "total": 4.0}

    def time_train_step(cfg, workload, options, log):
        parts = (workload.microbatches, workload.torch_parts)
        calls.append(
            (cfg.image_tokens, workload.prompts, workload.group_size, *parts)
            + (options.rounds, options.devices, options.profile.name)
        )
        if not options.with_torch:
            return StepTiming({"corl_jax": seconds}, 7.0, None)
        slower = {phase: 3 * value for phase, value in seconds.items()}
        return StepTiming(
            {"corl_jax": seconds, "transformers": slower}, 7.0, dict.fromkeys(seconds, 2)
        )

    monkeypatch.setattr(step_speed, "time_train_step", time_train_step)
    monkeypatch.setattr(step_speed, "measure_device_rates", lambda: RATES)
    json_file = tmp_path / "step.json"
    line = ["bench", "step", "--size", "mid", "--group", "4", "--image-tokens", "16"]
    line += ["--profile", "trace", "--json", str(json_file)]
    assert main(line) == 0
    table, _ = capsys.readouterr()

    values = json.loads(json_file.read_text())
    assert values["phases"]["update"] == {"ours": 2.5, "theirs": 7.5, "ratio": 3.0}
    assert list(values["phases"]) == list(seconds)
    assert (values["ours"], values["theirs"], values["unit"]) == (0.25, 1 / 12, "steps/s")
    assert values["ratio"] == pytest.approx(values["ours"] / values["theirs"])
    assert {"torch", "transformers", "jax"} <= set(values["versions"])
    assert values["device"] in table
    assert set(values["work"]) == {
        "prompts", "group", "answer", "microbatches", "torch_parts", "chunk", "remat", "unroll",
        "image_tokens",
    }  # fmt: skip
    assert "rollout_text" in table and "3.00" in table and "16 image tokens, answers of 64" in table

    # Alone, on three devices.
    monkeypatch.setattr(step_speed, "set_cpu_devices", cpu_devices.append)
    line += ["--prompts", "3", "--devices", "3", "--against", "nothing"]
    assert main(line) == 0
    values = json.loads(json_file.read_text())
    assert values["theirs"] is values["ratio"] is None
    assert values["phases"]["update"] == {"ours": 2.5}
    assert calls == [(16, 2, 4, 2, 4, 2, None, "trace"), (16, 3, 4, 3, 6, 2, 3, "trace")]
    assert cpu_devices == [3]


def test_scaling_gives_each_device_equal_work(capsys, tmp_path, monkeypatch):
    """Child processes are replaced; each takes half a second, and a tenth for each device."""
    settings = []

    def run_child(command, env, **kwargs):
        args = make_parser().parse_args(command[3:])
        settings.append((args.devices, args.prompts, args.group, args.image_tokens))
        assert args.size == "dot" and args.against == "nothing" and args.repeats == 3
        assert env["JAX_PLATFORMS"] == "cpu"
        phase = {"ours": 0.5 + 0.1 * args.devices}
        args.json.write_text(json.dumps({"phases": dict.fromkeys(PHASES, phase)}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run_child)
    json_file = tmp_path / "scaling.json"
    line = ["bench", "scaling", "--size", "dot", "--devices", "1,4", "--image-tokens", "9"]
    assert main([*line, "--json", str(json_file)]) == 0
    table, _ = capsys.readouterr()

    over_devices = [(1, 2, 8, None), (4, 8, 8, None)]
    over_sizes = [
        (1, 2, 8, None),
        (1, 2, 4, None),
        (1, 2, 16, None),
        (1, 4, 8, None),
        (1, 8, 8, None),
        (1, 2, 8, 9),
    ]
    assert settings == over_devices + over_sizes

    values = json.loads(json_file.read_text())
    single, four = values["devices"]
    assert single["overhead"] == 1 and four["overhead"] == pytest.approx(0.9 / (4 * 0.6))
    assert (four["devices"], four["prompts"], four["group"]) == (4, 8, 8)
    assert values["theirs"] == pytest.approx(32 / 0.6)
    assert values["ours"] == pytest.approx(128 / 0.9)
    assert values["ratio"] == pytest.approx(values["ours"] / values["theirs"])
    assert values["unit"] == "samples/s"
    assert "overhead" in table and "same cores" in table and len(values["sizes"]) == 6


def test_scaling_reports_the_last_line_of_a_failed_child():
    message = r"ended with code 2: error: --size must be one of .*; got 'huge'"
    with pytest.raises(UserError, match=message):
        scaling.time_in_child_process("huge", scaling.StepSetting(), 1)


def test_kernels_are_compared_with_the_plain_one(capsys, tmp_path, monkeypatch):
    cases = attention_speed.make_cases("dot")[:1]
    monkeypatch.setattr(attention_speed, "make_cases", lambda size: cases)
    json_file = tmp_path / "kernels.json"
    line = ["bench", "kernels", "--size", "dot", "--repeats", "1", "--json", str(json_file)]
    assert main(line) == 0

    values = json.loads(json_file.read_text())
    rows = values["kernels"]
    assert [(row["kernel"], row["case"]["length"]) for row in rows] == [("einsum", 23)]
    assert all(row["forward_ms"] > 0 and row["deviation"] == 0 for row in rows)
    assert values["ratio"] == 1 and values["unit"] == "ms"
    assert "einsum" in capsys.readouterr().out


def test_deviation_of_a_wrong_kernel_is_measured(monkeypatch):
    from corl_jax.models import attention_kernels
    from corl_jax.models.attention_kernels import Kernel, attend

    wrong = Kernel(lambda q, k, v, mask: 1.5 * attend(q, k, v, mask))
    unfit = Kernel(attend, unmet_requirement=lambda size, dtype: f"nothing of {size}")
    entries = attention_kernels.kernels._entries
    monkeypatch.setitem(entries, "wrong", wrong)
    monkeypatch.setitem(entries, "unfit", unfit)

    case = attention_speed.make_cases("dot")[0]
    timings, refusals, failures = attention_speed.time_kernels(case, 1, jnp.float32)
    assert failures == {}
    assert [timing.kernel for timing in timings] == ["einsum", "wrong"]
    assert timings[1].deviation > 0.1
    assert "'unfit' requires nothing of 16" in refusals["unfit"]


@pytest.mark.parametrize("failing", ["einsum", "broken"])
def test_a_kernel_that_fails_is_one_line(capsys, tmp_path, monkeypatch, failing):
    from corl_jax.models import attention_kernels
    from corl_jax.models.attention_kernels import Kernel, attend

    def fail(*args):
        raise NotImplementedError("no\nsuch size")

    entries = attention_kernels.kernels._entries
    monkeypatch.setitem(entries, "broken", Kernel(attend))
    monkeypatch.setitem(entries, failing, Kernel(fail))
    cases = attention_speed.make_cases("dot")[:1]
    monkeypatch.setattr(attention_speed, "make_cases", lambda size: cases)
    json_file = tmp_path / "kernels.json"
    line = ["bench", "kernels", "--size", "dot", "--repeats", "1", "--json", str(json_file)]
    assert main(line) == 0
    assert (
        f"image    {failing} failed: NotImplementedError: no such size\n" in capsys.readouterr().out
    )

    values = json.loads(json_file.read_text())
    other = {"einsum": "broken", "broken": "einsum"}[failing]
    assert [row["kernel"] for row in values["kernels"]] == [other] and values["best"] == other
    assert [row["kernel"] for row in values["failed"]] == [failing]
    # Without the plain kernel there is nothing to compare with.
    assert (values["ratio"] is None) == (failing == "einsum")
    assert (values["kernels"][0]["deviation"] is None) == (failing == "einsum")


def test_missing_torch_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"torch, which is not installed; pip install -e '\.\[test\]'"
    with pytest.raises(UserError, match=message):
        decode_speed.run_benchmark(DecodeOptions("dot", "transformers", devices=1), print)

    options = StepOptions("dot", "transformers", prompts=2, group_size=8)
    with pytest.raises(UserError, match="torch, which is not installed"):
        step_speed.time_train_step(DOT, Workload(), options, print)
    with pytest.raises(UserError, match="torch, which is not installed"):
        decode_contenders.check_torch()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bench", "BENCHMARK"),
        ("bench sleep", "sleep"),
        (
            "bench decode --size huge",
            "--size must be one of dot, tiny, mid, janus_pro_1b; got 'huge'",
        ),
        ("bench decode --size janus_pro_1b", "on a CPU; got 'janus_pro_1b'"),
        ("bench decode --against stones", "stones"),
        ("bench decode --repeats 0", "--repeats must be a whole number from 1 to 1000; got 0"),
        ("bench decode --devices 3", "--devices must divide the 8 prompts; got 3"),
        ("bench decode --samples 8 --group 3", "--group must divide the 8 samples; got 3"),
        ("bench decode --samples 0", "--samples must be a whole number from 1 to 4096; got 0"),
        ("bench step --devices 3", "--devices must divide the 2 prompts; got 3"),
        (
            "bench step --prompts 4 --devices 0",
            "--devices must be a whole number from 1 to 1024; got 0",
        ),
        ("bench step --prompts 0", "--prompts must be a whole number from 1 to 1024; got 0"),
        ("bench step --group 1", "--group must be a whole number from 2 to 1024; got 1"),
        ("bench step --size huge", "got 'huge'"),
        ("bench step --image-tokens 12", "--image-tokens must be a square number"),
        ("bench step --size janus_pro_1b", "on a CPU; got 'janus_pro_1b'"),
        ("bench scaling --devices 2,4", "--devices must start with 1"),
        ("bench scaling --devices 1,0", "--devices must be a whole number from 1 to 1024; got 0"),
        ("bench scaling --devices two", "got 'two'"),
        ("bench kernels --size huge", "got 'huge'"),
    ],
)
def test_bad_input_is_one_line_and_code_two(capsys, line, message):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err


class Sleeper:
    """A step that does nothing for 60 ms."""

    def sample_images(self, seed):
        time.sleep(0.02)

    def sample_text(self, seed):
        time.sleep(0.02)

    def update(self, image, text):
        time.sleep(0.02)


def test_data_times_pictures_and_waiting(capsys, tmp_path, rng, monkeypatch):
    # The step itself is measured by other benchmarks; this one takes three times 20 ms.
    monkeypatch.setattr(data_speed, "CORE_SECONDS", 0.05)
    monkeypatch.setattr(data_speed, "make_step", lambda size: Sleeper())
    rows = []
    for i in range(4):
        pixels = rng.integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        row = {"prompt": "a cat", "real_image": f"{i}.png", "qa_problem": "how many?"}
        rows.append(json.dumps(row | {"qa_solution": "two", "qa_type": "OE"}))
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    json_file = tmp_path / "speed.json"
    sizes = ["--image-size", "32", "--batch-size", "2", "--workers", "1", "--steps", "3"]
    line = ["bench", "data", str(tmp_path), *sizes, "--size", "dot", "--json", str(json_file)]
    assert main(line) == 0
    table, _ = capsys.readouterr()

    values = json.loads(json_file.read_text())
    assert values["pictures_per_core_second"] > 0 and "pictures/s on one core" in table
    assert len(values["waiting_seconds"]) == len(values["step_seconds"]) == 3
    pairs = zip(values["waiting_seconds"], values["step_seconds"], strict=True)
    assert all(waiting > 0 and waiting + 0.06 <= step for waiting, step in pairs)
    assert f"{values['waiting_share']:.2%} of a step spent waiting" in table
