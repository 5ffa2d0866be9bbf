"""Exported policies, the shipped base and one trained from it, give the same in transformers."""

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
def trained_workdir(small_config, small_world, tmp_path_factory):
    """The work directory of two steps from the shipped base."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    prompts = {"rl.rollout.image_prompts": 2, "rl.rollout.text_prompts": 2}
    with small_world():
        run(small_config("unified", policy="tiny", **prompts), workdir)
    return workdir


@pytest.fixture(params=["base", "trained"])
def policy_name(request):
    """Value of ``--policy``."""
    if request.param == "base":
        return "tiny"
    return str(request.getfixturevalue("trained_workdir"))


def export(policy_name, folder, *flags):
    """``corl export``."""
    return main(["export", "--policy", str(policy_name), "--out", str(folder), *flags])


def test_transformers_generates_the_same(torch, policy_name, tmp_path, capsys):
    from transformers import JanusForConditionalGeneration

    assert export(policy_name, tmp_path / "out") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    policy = Policy.load(policy_name, dtype="float32")
    tokenizer = policy.tokenizer
    torch_model = JanusForConditionalGeneration.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    ).eval()

    def to_torch(array):
        return torch.from_numpy(array.astype(np.int64))

    # Images, greedily.
    prompts = [tokenizer.image_generation_prompt(caption) for caption in CAPTIONS]
    tokens, mask = left_pad(prompts, tokenizer.pad_id)
    expected = torch_model.generate(
        to_torch(tokens),
        attention_mask=to_torch(mask),
        generation_mode="image",
        do_sample=False,
        guidance_scale=2.0,
    )
    image_tokens = policy.sample_image_tokens(CAPTIONS, 1, guidance=2.0, temperature=0.0)[:, 0]
    np.testing.assert_array_equal(image_tokens, expected.numpy())
    assert len(np.unique(image_tokens)) > 8

    # Answers to questions about them.
    images = list(policy.generate(CAPTIONS, 1, temperature=0.0)[:, 0])
    prompts = [tokenizer.question_prompt(text, policy.cfg.image_tokens) for text in QUESTIONS]
    tokens, mask = left_pad(prompts, tokenizer.pad_id)
    pixels = np.stack([preprocess(image, policy.cfg.vision.image_size) for image in images])
    banned = tokenizer.banned_text_ids(policy.cfg.decoder.vocab_size).nonzero()[0].tolist()
    output = torch_model.generate(
        to_torch(tokens),
        attention_mask=to_torch(mask),
        pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        generation_mode="text",
        do_sample=False,
        max_new_tokens=20,
        suppress_tokens=banned,
    )
    answers = [tokenizer.decode(row) for row in output[:, tokens.shape[1] :].numpy()]
    assert policy.answer(images, QUESTIONS, max_tokens=20) == answers and len(set(answers)) > 1


@pytest.mark.parametrize("dtype", ["stored", "bfloat16"])
def test_the_original_layout_gives_the_same_policy(policy_name, tmp_path, dtype):
    folder = tmp_path / "original"
    assert export(policy_name, folder, "--layout", "original", "--dtype", dtype) == 0
    before, after = Policy.load(policy_name, dtype="float32"), Policy.load(folder, dtype="float32")
    assert before.cfg == after.cfg and (folder / "processor_config.json").is_file()

    for path, leaf in before.params.items():
        expected = leaf if dtype == "stored" else leaf.astype("bfloat16")
        exported = after.params[path]
        is_float32 = dtype == "stored" or "image_tokenizer" in path
        assert str(exported.dtype) == ("float32" if is_float32 else "bfloat16")
        np.testing.assert_array_equal(
            exported.astype("float32"), expected.astype("float32"), err_msg=path
        )

    image_tokens = after.sample_image_tokens(CAPTIONS, 1, temperature=0.0)
    if dtype == "stored":
        expected = before.sample_image_tokens(CAPTIONS, 1, temperature=0.0)
        np.testing.assert_array_equal(image_tokens, expected)

    # Exported once more, the files are the same bytes.
    repeated = tmp_path / "repeated"
    assert export(folder, repeated, "--layout", "original") == 0
    for name in ("model.safetensors", "config.json"):
        assert (repeated / name).read_bytes() == (folder / name).read_bytes()


def test_a_policy_stored_in_bfloat16_computes_as_one_stored_in_float32(tmp_path):
    assert export("tiny", tmp_path / "bfloat16", "--dtype", "bfloat16") == 0
    assert export(tmp_path / "bfloat16", tmp_path / "float32", "--dtype", "float32") == 0
    dtypes = ("bfloat16", "float32")
    policies = [Policy.load(tmp_path / dtype, dtype="float32") for dtype in dtypes]
    for policy, dtype in zip(policies, dtypes, strict=True):
        assert str(policy.params["language_model/lm_head/kernel"].dtype) == dtype
    tokens = [policy.sample_image_tokens(CAPTIONS, 2, seed=3) for policy in policies]
    np.testing.assert_array_equal(*tokens)
