"""What we train is served by transformers: the shipped base and a work directory trained from it, exported."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.stages.run import run

CAPTIONS = [
    "a red circle",
    "two blue squares and a green triangle",
    "a yellow circle left of a red square",
]
QUESTIONS = [
    "how many objects are there?",
    "what colour is the circle?",
    "is there a circle above a square?",
]


@pytest.fixture(scope="module")
def trained(small_config, small_world, tmp_path_factory):
    """A work directory two steps on from the shipped base."""
    home = tmp_path_factory.mktemp("trained") / "run"
    with small_world():
        run(small_config("unified", policy="tiny", **{"rl.pictures": 2, "rl.questions": 2}), home)
    return home


@pytest.fixture(params=["base", "trained"])
def policy_name(request):
    """What ``--policy`` is given."""
    return "tiny" if request.param == "base" else str(request.getfixturevalue("trained"))


def test_transformers_draws_and_answers_the_same(policy_name, tmp_path, capsys):
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    from transformers import JanusForConditionalGeneration

    assert main(["export", "--policy", policy_name, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    policy = Policy.load(policy_name, dtype="float32")
    theirs = JanusForConditionalGeneration.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    ).eval()
    words = policy.tokenizer

    tokens, mask = left_pad([words.drawing_prompt(text) for text in CAPTIONS], words.pad_id)
    drawn = theirs.generate(
        torch.from_numpy(tokens.astype(np.int64)), attention_mask=torch.from_numpy(mask.astype(np.int64)),
        generation_mode="image", do_sample=False, guidance_scale=2.0)  # fmt: skip
    ours = policy.sample_image_tokens(CAPTIONS, 1, guidance=2.0, temperature=0.0)[:, 0]
    np.testing.assert_array_equal(ours, drawn.numpy())
    assert len(np.unique(ours)) > 8

    pictures = list(policy.generate(CAPTIONS, 1, temperature=0.0)[:, 0])
    asked = [words.question_prompt(text, policy.cfg.image_tokens) for text in QUESTIONS]
    tokens, mask = left_pad(asked, words.pad_id)
    pixels = np.stack([preprocess(picture, policy.cfg.vision.image_size) for picture in pictures])
    banned = words.banned_text_ids(policy.cfg.decoder.vocab_size).nonzero()[0].tolist()
    written = theirs.generate(
        torch.from_numpy(tokens.astype(np.int64)), attention_mask=torch.from_numpy(mask.astype(np.int64)),
        pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), generation_mode="text", do_sample=False,
        max_new_tokens=20, suppress_tokens=banned)[:, tokens.shape[1] :]  # fmt: skip
    expected = [words.decode(row) for row in written.numpy()]
    assert policy.answer(pictures, QUESTIONS, max_tokens=20) == expected and len(set(expected)) > 1


@pytest.mark.parametrize("dtype", ["stored", "bfloat16"])
def test_the_original_layout_gives_the_same_policy(policy_name, tmp_path, dtype):
    out = tmp_path / "original"
    line = [
        "export",
        "--policy",
        policy_name,
        "--out",
        str(out),
        "--layout",
        "original",
        "--dtype",
        dtype,
    ]
    assert main(line) == 0
    before, after = Policy.load(policy_name, dtype="float32"), Policy.load(out, dtype="float32")
    assert before.cfg == after.cfg and (out / "processor_config.json").is_file()
    for path, leaf in before.params.items():
        expected = leaf if dtype == "stored" else leaf.astype("bfloat16")
        held = after.params[path]
        assert str(held.dtype) == (
            "float32" if dtype == "stored" or "image_tokenizer" in path else "bfloat16"
        )
        np.testing.assert_array_equal(
            held.astype("float32"), expected.astype("float32"), err_msg=path
        )
    drawn = after.sample_image_tokens(CAPTIONS, 1, temperature=0.0)
    if dtype == "stored":
        np.testing.assert_array_equal(
            drawn, before.sample_image_tokens(CAPTIONS, 1, temperature=0.0)
        )
    again = tmp_path / "again"
    assert main(["export", "--policy", str(out), "--out", str(again), "--layout", "original"]) == 0
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert (again / "config.json").read_bytes() == (out / "config.json").read_bytes()


def test_a_policy_held_in_bfloat16_computes_as_one_held_in_float32(tmp_path):
    line = ["export", "--policy", "tiny", "--out", str(tmp_path / "narrow"), "--dtype", "bfloat16"]
    assert main(line) == 0
    assert (
        main(
            [
                "export",
                "--policy",
                str(tmp_path / "narrow"),
                "--out",
                str(tmp_path / "wide"),
                "--dtype",
                "float32",
            ]
        )
        == 0
    )
    narrow, wide = (Policy.load(tmp_path / name, dtype="float32") for name in ("narrow", "wide"))
    assert str(narrow.params["language_model/lm_head/kernel"].dtype) == "bfloat16"
    assert str(wide.params["language_model/lm_head/kernel"].dtype) == "float32"
    tokens = [policy.sample_image_tokens(CAPTIONS, 2, seed=3) for policy in (narrow, wide)]
    np.testing.assert_array_equal(*tokens)
