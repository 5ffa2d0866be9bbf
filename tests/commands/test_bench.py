"""The bench: both sides at a very small size, what it prints and writes, what it refuses."""

from __future__ import annotations

import importlib.util
import json

import pytest

from corl_jax.commands import bench
from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.evals import bench_decode, bench_sides
from corl_jax.models.config import DecoderConfig, ImageTokenizerConfig, JanusConfig, VisionConfig

DOT = JanusConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, mlp_dim=32),
    decoder=DecoderConfig(
        vocab_size=72, width=32, depth=2, heads=2, kv_heads=2, head_size=16, mlp_dim=64, max_length=128
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=32, latent_channels=32, base_channels=32, channel_multipliers=(1, 1, 1, 1), res_blocks=0
    ),
    gen_head_dim=32,
)


def test_our_side_draws_what_it_says(tmp_path):
    from corl_jax.data.text import TextTokenizer

    folder = bench_decode.random_folder(DOT, tmp_path)
    prompts = bench_decode.sample_prompts(TextTokenizer.load(folder))
    assert prompts.tokens.shape == (8, 20) and prompts.mask.all()
    assert len({row.tobytes() for row in prompts.tokens}) == 8
    side = bench_sides.ours(folder, prompts)
    seconds, codes = bench_sides.timed(side.draw)
    assert seconds > 0 and codes.shape == (8, 4) and codes.min() >= 0 and codes.max() < 32
    assert side.show(codes).shape == (8, 16, 16, 3) and set(side.seconds) == {"load", "compile"}


def test_both_sides_are_measured(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the other side needs torch")
    monkeypatch.setitem(bench_decode.SIZES, "dot", (DOT, 2))
    monkeypatch.setattr(bench, "_fresh_compilation", lambda: None)  # other tests keep their cache
    out = tmp_path / "speed.json"
    assert main(["bench", "decode", "--size", "dot", "--against", "transformers", "--json", str(out)]) == 0
    table, progress = capsys.readouterr()
    found = json.loads(out.read_text())
    assert found["ours"] > 0 and found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
    assert found["unit"] == "image tokens/s" and {"torch", "transformers", "jax"} <= set(found["versions"])
    assert set(found["seconds"]["ours"]) == {"load", "compile", "pixels"} and found["torch_threads"] >= 1
    assert f"{found['ours']:.1f}" in table and "transformers" in table and "turn 2 of 2" in progress


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torch, which is not installed; pip install -e '\.\[test\]'"):
        bench_decode.measure(DOT, 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("bench", "what"),
        ("bench sleep", "sleep"),
        ("bench decode --size huge", "huge"),
        ("bench decode --size janus_pro_1b", "CPU"),
        ("bench decode --against stones", "stones"),
        ("bench decode --repeats 0", "--repeats=0"),
    ],
)
def test_bad_input_is_one_line_and_code_two(capsys, line, says):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err
