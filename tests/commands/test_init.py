"""``corl init``: a small random policy that every reader of policies reads, and that trains."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.core.problems import SeveralProblems
from corl_jax.data.new_tokenizer import byte_tokenizer, train_bpe
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.main import parse_command_line
from corl_jax.sampling.policy import Policy
from corl_jax.stages.run import prepare

TEXTS = [
    "a teal kettle on a wooden table",
    "Ein Kessel, größer als 3½ 杯",
    "<answer>B</answer>\n\n",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A folder of twelve records: pictures of odd sizes, words that no fixed list has."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for i in range(12):
        pixels = np.full((31 + i, 77, 3), 20 * i, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        row = {"image": f"{i}.png", "prompt": f"{TEXTS[0]}, {i}", "id": f"r{i}"}
        rows.append(row | {"question": "Which colour?", "answer": "teal"})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def policy_folder(records, tmp_path_factory):
    """A policy of ``corl init`` whose tokenizer has learned the texts of ``records``."""
    out = tmp_path_factory.mktemp("init") / "policy"
    flags = ["--size", "tiny", "--image-size", "32", "--data", str(records)]
    assert main(["init", "--out", str(out), *flags]) == 0
    return out


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), train_bpe(TEXTS, 300)])
def test_tokenizers_read_any_text(tokenizer):
    tokenizer = TextTokenizer(tokenizer)
    for text in (*TEXTS, "日本 \U0001f600 \x00 ‮", " two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # Tags are tokens that are sampled, and a text cannot write a special token.
    assert len(tokenizer.encode("<think></think><answer></answer>")) == 4
    assert not tokenizer.banned_text_ids()[tokenizer.encode("<think>")].any()
    with pytest.raises(UserError, match="has the special token <begin_of_image>"):
        tokenizer.image_generation_prompt("a <begin_of_image>")


def test_a_trained_tokenizer_is_shorter_and_has_no_more_ids_than_asked_for():
    trained = TextTokenizer(train_bpe(TEXTS * 3, 300))
    assert 280 < trained.vocab_size <= 300
    assert len(trained.encode(TEXTS[0])) < len(TextTokenizer(byte_tokenizer()).encode(TEXTS[0]))
    for texts, size, message in ((TEXTS, 200, "at least 268 ids"), ([" "], 300, "got none")):
        with pytest.raises(UserError, match=message):
            train_bpe(texts, size)


def test_the_policy_samples_and_answers(policy_folder, records):
    policy = Policy.load(str(policy_folder))
    images = policy.generate([TEXTS[1]], samples=2, seed=0, guidance=2.0)
    assert images.shape == (1, 2, 32, 32, 3) and images.dtype == np.uint8
    # Random samples differ, as groups must.
    assert not np.array_equal(images[0, 0], images[0, 1])
    assert isinstance(policy.answer([records / "3.png"], ["Which colour?"])[0], str)
    assert main(["inspect", "--policy", str(policy_folder)]) == 0


def test_transformers_loads_the_folder(policy_folder):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    policy = Policy.load(str(policy_folder))
    processor = transformers.AutoProcessor.from_pretrained(policy_folder)
    inputs = processor.tokenizer(TEXTS[1])["input_ids"]
    assert inputs == [policy.tokenizer.bos_id, *policy.tokenizer.encode(TEXTS[1])]

    model = transformers.JanusForConditionalGeneration.from_pretrained(policy_folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([inputs])).logits
    assert logits.shape[-1] == policy.tokenizer.vocab_size and torch.isfinite(logits).all()


def test_the_seed_makes_the_weights(policy_folder, tmp_path):
    weights = [policy_folder / "model.safetensors"]
    for seed in (0, 1):
        out = tmp_path / str(seed)
        flags = ["--size", "tiny", "--image-size", "32", "--seed", str(seed)]
        assert main(["init", "--out", str(out), *flags]) == 0
        weights.append(out / "model.safetensors")
    contents = [path.read_bytes() for path in weights]
    assert len(set(contents)) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-size", "50", "--size", "tiny"], "--image-size must be a multiple of 8, and at "),
        (["--tokenizer", "bpe"], "--tokenizer bpe must be trained on texts; add --data SOURCE"),
        (["--tokenizer", "byte", "--data", "x"], "--tokenizer byte is not trained; leave --data"),
        (["--texts", "nowhere.txt"], "--texts must be a text file in UTF-8; got .*nowhere.txt"),
        (["--data", "nowhere"], "must be a folder or a file that exists"),
        (["--seed", "-1"], "--seed must be a whole number from 0"),
    ],
)
def test_bad_input(tmp_path, capsys, flags, message):
    assert main(["init", "--out", str(tmp_path / "new"), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_kept(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["init", "--out", str(tmp_path)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def own_config(policy_folder, records, *flags):
    config, _, _ = parse_command_line(
        [
            "main",
            "--config=configs/own_records.py",
            f"--config.init_from={policy_folder}",
            f"--config.data.source={records}",
            *flags,
        ]
    )
    return config


def test_own_records_train_from_it(policy_folder, records, tmp_path):
    prepared = prepare(own_config(policy_folder, records, "--config.evals.num_records=1"), tmp_path)
    stage = prepared.stage
    assert stage.setup.cfg.image_size == 32 and 0 < len(stage.train_records) < 12
    assert set(stage.evaluation.tasks) == {"image", "text"}


def test_a_check_names_what_would_train_and_writes_nothing(
    policy_folder, records, tmp_path, capsys
):
    changes = [f"config.init_from={policy_folder}", f"config.data.source={records}"]
    line = ["check", "--config=configs/own_records.py", "--workdir", str(tmp_path / "run")]
    assert main([*line, *changes, "config.evals.num_records=1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ready: ") and "image: 4 prompts of at most 128 tokens" in out
    assert main([*line, *changes, "config.evals.num_records=1", "config.data.held_out=0"]) == 2
    assert "has no test.jsonl" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_own_records_that_do_not_fit_are_refused_at_once(policy_folder, records, tmp_path):
    flags = (
        "--config.rl.rollout.image_prompt_length=8",
        "--config.rl.rollout.completion_length=4000",
        "--config.rl.rollout.text_prompts=64",
        "--config.data.held_out=0",
        "--config.rewards.options.models.clip=nowhere",
    )
    config = own_config(policy_folder, records, *flags)
    config["rewards"]["image"] |= {"clip": 1.0, "self_classes": 1.0}
    with pytest.raises(SeveralProblems) as error:
        prepare(config, tmp_path / "run")
    for part, flag in (
        ("a prompt and its completion must have at most", "completion_length of 4000"),
        ("12 of 12 training records cannot be used: ", "--config.rl.rollout.image_prompt_length="),
        ("reward 'self_classes' needs class_question", "choose rewards that these records fit"),
        ("has no test.jsonl", "--config.data.held_out"),
        ("the captioner|CLIP|clip", "nowhere"),
        ("text_prompts must be at most the number of training records, 12; got 64", ""),
    ):
        names = part.split("|")
        assert any(
            any(name in problem for name in names) and flag in problem
            for problem in error.value.problems
        ), (part, error.value.problems)
    assert not (tmp_path / "run").exists()
