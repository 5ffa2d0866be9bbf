"""The bench: both sides at a very small size, what it prints and writes, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess

import jax.numpy as jnp
import pytest

from corl_jax.bench import attention_speed, decode_contenders, decode_speed, scaling, train_step
from corl_jax.bench.timing import PHASES, Work
from corl_jax.bench.workloads import DOT, random_folder, sample_prompts
from corl_jax.commands import bench
from corl_jax.commands.cli import main, parser
from corl_jax.core import runtime
from corl_jax.core.errors import UserError


@pytest.fixture(autouse=True)
def _other_tests_keep_their_cache(monkeypatch):
    monkeypatch.setattr(bench, "_fresh_compilation", lambda: None)


@pytest.mark.parametrize("devices", [1, 2])
def test_our_side_draws_what_it_says(tmp_path, devices):
    from corl_jax.data.text_tokenizer import TextTokenizer

    folder = random_folder(DOT, tmp_path)
    prompts = sample_prompts(TextTokenizer.load(folder), 8)
    assert prompts.tokens.shape == (8, 20) and prompts.mask.all()
    assert len({row.tobytes() for row in prompts.tokens}) == 8
    side = decode_contenders.ours(folder, prompts, devices)
    seconds, codes = decode_contenders.timed(side.draw)
    assert seconds > 0 and codes.shape == (8, 4) and codes.min() >= 0 and codes.max() < 32
    assert side.show(codes).shape == (8, 16, 16, 3) and set(side.seconds) == {"load", "compile"}


def test_both_sides_are_measured(capsys, tmp_path):
    pytest.importorskip("torch", reason="the other side needs torch")
    out = tmp_path / "speed.json"
    assert (
        main(
            [
                "bench",
                "decode",
                "--size",
                "dot",
                "--profile",
                str(tmp_path / "trace"),
                "--json",
                str(out),
            ]
        )
        == 0
    )
    table, progress = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["ours"] > 0 and found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
    assert found["unit"] == "image tokens/s" and {"torch", "transformers", "jax"} <= set(
        found["versions"]
    )
    assert (
        set(found["seconds"]["ours"]) == {"load", "compile", "pixels"}
        and found["torch_threads"] >= 1
    )
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert f"{found['ours']:.1f}" in table and "transformers" in table and "turn 2 of 2" in progress


def test_a_step_is_told_by_phase(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="its version is told")
    asked, cpus = [], []
    ours = {"rollout_image": 1.0, "rollout_text": 0.5, "update": 2.5, "total": 4.0}

    def measure(cfg, work, repeats, devices, *, beside_torch, log, profile):
        parts = (work.microbatches, work.torch_parts)
        asked.append(
            (cfg.image_tokens, work.prompts, work.group, *parts, repeats, devices, profile.name)
        )
        sides = {"ours": ours, "theirs": {phase: 3 * seconds for phase, seconds in ours.items()}}
        return (
            train_step.Found(sides, 7.0, dict.fromkeys(ours, 2))
            if beside_torch
            else train_step.Found(sides, 7.0, None)
        )

    monkeypatch.setattr(train_step, "measure", measure)
    out = tmp_path / "step.json"
    line = [
        "bench",
        "step",
        "--size",
        "mid",
        "--group",
        "4",
        "--image-tokens",
        "16",
        "--profile",
        "trace",
    ]
    assert main([*line, "--json", str(out)]) == 0
    table, _ = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["phases"]["update"] == {"ours": 2.5, "theirs": 7.5, "ratio": 3.0} and list(
        found["phases"]
    ) == list(ours)
    assert (found["ours"], found["theirs"], found["unit"]) == (0.25, 1 / 12, "steps/s")
    assert found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
    assert {"torch", "transformers", "jax"} <= set(found["versions"]) and found["device"] in table
    assert "rollout_text" in table and "3.00" in table and "16 image tokens, answers of 64" in table
    monkeypatch.setattr(runtime, "cpu_devices", cpus.append)
    rest = ["--prompts", "3", "--devices", "3", "--against", "nothing"]
    assert main([*line, *rest, "--json", str(out)]) == 0
    alone = json.loads(out.read_text())
    assert alone["theirs"] is alone["ratio"] is None and alone["phases"]["update"] == {"ours": 2.5}
    assert asked == [
        (16, 2, 4, 2, 4, 2, None, "trace"),
        (16, 3, 4, 3, 6, 2, 3, "trace"),
    ] and cpus == [3]


def test_scaling_asks_for_equal_work_on_each_device(capsys, tmp_path, monkeypatch):
    """Children are read by the parser of the real ones, and take half a second and a tenth for each device."""
    asked = []

    def child(line, env, **how):
        args = parser().parse_args(line[3:])
        asked.append((args.devices, args.prompts, args.group, args.image_tokens))
        assert args.size == "dot" and args.against == "nothing" and args.repeats == 3
        assert env["JAX_PLATFORMS"] == "cpu"
        phase = {"ours": 0.5 + 0.1 * args.devices}
        args.json.write_text(json.dumps({"phases": dict.fromkeys(PHASES, phase)}))
        return subprocess.CompletedProcess(line, 0, "", "")

    monkeypatch.setattr(subprocess, "run", child)
    out = tmp_path / "scaling.json"
    line = [
        "bench",
        "scaling",
        "--size",
        "dot",
        "--devices",
        "1,4",
        "--image-tokens",
        "9",
        "--json",
        str(out),
    ]
    assert main(line) == 0
    table, _ = capsys.readouterr()
    found = json.loads(out.read_text())
    sizes = [
        (1, 2, 8, None),
        (1, 2, 4, None),
        (1, 2, 16, None),
        (1, 4, 8, None),
        (1, 8, 8, None),
        (1, 2, 8, 9),
    ]
    assert asked == [(1, 2, 8, None), (4, 8, 8, None), *sizes]
    one, four = found["devices"]
    assert one["overhead"] == 1 and four["overhead"] == pytest.approx(0.9 / (4 * 0.6))
    assert found["theirs"] == pytest.approx(32 / 0.6) and found["ours"] == pytest.approx(128 / 0.9)
    assert (
        found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
        and found["unit"] == "samples/s"
    )
    assert "overhead" in table and "same cores" in table and len(found["sizes"]) == 6


def test_a_child_that_fails_is_told_by_its_last_line():
    with pytest.raises(UserError, match=r"ended with code 2: error: unknown size 'huge'"):
        scaling.child("huge", scaling.Setting(), 1)


def test_kernels_are_timed_against_the_plain_one(capsys, tmp_path, monkeypatch):
    some = attention_speed.cases("dot")[:1]
    monkeypatch.setattr(attention_speed, "cases", lambda size: some)
    out = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--size", "dot", "--repeats", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [(row["kernel"], row["case"]["length"]) for row in found["kernels"]] == [("einsum", 23)]
    assert all(row["forward_ms"] > 0 and row["deviation"] == 0 for row in found["kernels"])
    assert found["ratio"] == 1 and found["unit"] == "ms" and "einsum" in capsys.readouterr().out


def test_a_kernel_that_deviates_is_seen(monkeypatch):
    from corl_jax.models import attention_kernels as room

    wrong = room.Kernel(lambda q, k, v, mask: 1.5 * room.attend(q, k, v, mask))
    monkeypatch.setitem(room.kernels._items, "wrong", wrong)
    unfit = room.Kernel(room.attend, unfit=lambda size, dtype: f"nothing of {size}")
    monkeypatch.setitem(room.kernels._items, "unfit", unfit)
    found, refused = attention_speed.measure(attention_speed.cases("dot")[0], 1, jnp.float32)
    assert [row.kernel for row in found] == ["einsum", "wrong"] and found[1].deviation > 0.1
    assert "'unfit' takes nothing of 16" in refused["unfit"]


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"torch, which is not installed; pip install -e '\.\[test\]'"
    ):
        decode_speed.measure(DOT, 1)
    with pytest.raises(UserError, match="torch, which is not installed"):
        train_step.measure(DOT, Work(), 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("bench", "what"),
        ("bench sleep", "sleep"),
        ("bench decode --size huge", "huge"),
        ("bench decode --size janus_pro_1b", "CPU"),
        ("bench decode --against stones", "stones"),
        ("bench decode --repeats 0", "--repeats=0"),
        ("bench decode --devices 3", "--devices=3 does not divide the 8 prompts"),
        ("bench step --devices 3", "--devices=3 does not divide the 2 prompts"),
        ("bench step --prompts 4 --devices 0", "--devices=0 does not divide the 4 prompts"),
        ("bench step --group 0", "--group=0"),
        ("bench step --size huge", "huge"),
        ("bench step --image-tokens 12", "12 image tokens are no square"),
        ("bench step --size janus_pro_1b", "CPU"),
        ("bench scaling --devices 2,4", "--devices starts with 2"),
        ("bench scaling --devices 1,0", "1,0 holds a number below 1"),
        ("bench scaling --devices two", "two"),
        ("bench kernels --size huge", "huge"),
    ],
)
def test_bad_input_is_one_line_and_code_two(capsys, line, says):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err
