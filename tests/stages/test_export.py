"""Exported policies, the shipped base and one trained from it, give the same in transformers."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from corl_jax import Policy
from corl_jax.commands.cli import main
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


def conversation(*parts):
    """A message to a model of transformers."""
    return [{"role": "user", "content": list(parts)}]


def text_part(text):
    return {"type": "text", "text": text}


@pytest.fixture
def exported(policy_name, tmp_path, capsys):
    """An exported folder."""
    assert export(policy_name, tmp_path / "out") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    return tmp_path / "out"


def test_documented_code_of_transformers_gives_our_tokens(torch, policy_name, exported):
    from transformers import JanusForConditionalGeneration, JanusProcessor

    processor = JanusProcessor.from_pretrained(exported)
    model = JanusForConditionalGeneration.from_pretrained(exported, dtype=torch.float32)
    policies = [Policy.load(name, dtype="float32") for name in (policy_name, exported)]

    # Images: all captions in one batch, greedily, with the guidance scale of the folder.
    prompts = [
        processor.apply_chat_template(conversation(text_part(caption)), add_generation_prompt=True)
        for caption in CAPTIONS
    ]
    inputs = processor(text=prompts, generation_mode="image", padding=True, return_tensors="pt")
    expected = model.generate(
        **inputs.to(model.device), generation_mode="image", do_sample=False, use_cache=True
    )
    for policy in policies:
        image_tokens = policy.sample_image_tokens(CAPTIONS, 1, temperature=0.0)[:, 0]
        np.testing.assert_array_equal(image_tokens, expected.numpy())
    assert len(np.unique(image_tokens)) > 8

    # Their pixels. A number on the edge between two bytes may be rounded either way.
    images = policies[0].generate(CAPTIONS, 1, temperature=0.0)[:, 0]
    decoded = ((model.decode_image_tokens(expected) + 1) / 2 * 255).clamp(0, 255)
    differences = np.abs(decoded.to(torch.uint8).numpy().astype(int) - images)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01

    # Answers to questions about them.
    conversations = [
        conversation({"type": "image", "image": Image.fromarray(image)}, text_part(question))
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        generation_mode="text",
        tokenize=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(
        **inputs.to(model.device), max_new_tokens=20, generation_mode="text", do_sample=False
    )
    output = output[:, inputs["input_ids"].shape[1] :]
    texts = processor.batch_decode(output, skip_special_tokens=True)
    for policy in policies:
        assert policy.answer(list(images), QUESTIONS, max_tokens=20) == texts
    assert len(set(texts)) > 1


def test_an_untrained_policy_with_its_special_tokens_suppressed(torch, dot_policy_folder, rng):
    from transformers import JanusForConditionalGeneration, JanusProcessor

    processor = JanusProcessor.from_pretrained(dot_policy_folder)
    model = JanusForConditionalGeneration.from_pretrained(dot_policy_folder, dtype=torch.float32)
    policy = Policy.load(dot_policy_folder, dtype="float32")

    # As docs/export.md says.
    tokenizer = processor.tokenizer
    suppressed = set(range(model.config.text_config.vocab_size))
    suppressed -= set(tokenizer.get_vocab().values())
    suppressed |= set(tokenizer.all_special_ids)
    suppressed -= {tokenizer.eos_token_id}
    images = list(rng.integers(0, 256, (3, 16, 16, 3), np.uint8))
    conversations = [
        conversation({"type": "image", "image": Image.fromarray(image)}, text_part(question))
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        generation_mode="text",
        tokenize=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(
        **inputs,
        max_new_tokens=8,
        generation_mode="text",
        do_sample=False,
        suppress_tokens=sorted(suppressed),
    )
    texts = processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert policy.answer(images, QUESTIONS, max_tokens=8) == texts
    assert all(texts)

    # Images need nothing but the guidance scale, which this folder does not name.
    prompts = [
        processor.apply_chat_template(conversation(text_part(caption)), add_generation_prompt=True)
        for caption in CAPTIONS
    ]
    inputs = processor(text=prompts, generation_mode="image", padding=True, return_tensors="pt")
    expected = model.generate(
        **inputs, generation_mode="image", do_sample=False, guidance_scale=3.0
    )
    image_tokens = policy.sample_image_tokens(CAPTIONS, 1, guidance=3.0, temperature=0.0)
    np.testing.assert_array_equal(image_tokens[:, 0], expected.numpy())


def test_the_code_of_the_docs(torch, test_data, tmp_path, monkeypatch):
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "export.md"
    code = page.read_text("utf-8").split("```python\n")[1].split("```")[0]
    file = test_data("data/cases") / "pictures" / "photo_exif6.jpg"
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(file, "picture.jpg")
    assert export("tiny", "my_policy") == 0
    names: dict = {}
    exec(code, names)

    # The photograph is upright only after its orientation.
    policy = Policy.load("tiny", dtype="float32")
    with Image.open(file) as image:
        stored = np.array(image)
    question = "is the blue circle left of the purple triangle?"
    photos = [file, np.rot90(stored, -1).copy(), stored]
    answers = policy.answer(photos, [question] * 3, max_tokens=20)
    assert names["answer"] == answers[0] == answers[1] and "<answer> no </answer>" in answers[0]
    assert "<answer> yes </answer>" in answers[2]

    captions = ["a red circle left of a blue square", *CAPTIONS[1:]]
    image_tokens = policy.sample_image_tokens(captions, 1, guidance=2.0, temperature=0.0)
    np.testing.assert_array_equal(names["image_tokens"][0], image_tokens[0, 0])
    images = policy.generate(captions, 1, guidance=2.0, temperature=0.0)
    assert np.abs(names["pixels"][0].astype(int) - images[0, 0]).max() <= 1


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
