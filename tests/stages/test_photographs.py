"""Training on photographs, from Parquet and from JSON Lines."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers import dot_config, write_byte_tokenizer, write_untrained_policy

from corl_jax.core.errors import UserError
from corl_jax.engine.loop import train
from corl_jax.stages.run import prepare

pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    """The smallest policy, with a tokenizer that reads any text and room for long questions."""
    cfg = dot_config()
    decoder = dataclasses.replace(cfg.decoder, vocab_size=272, max_length=704)
    folder = tmp_path_factory.mktemp("photographs") / "policy"
    cfg = dataclasses.replace(cfg, decoder=decoder)
    return write_untrained_policy(cfg, folder, write_tokenizer=write_byte_tokenizer)


@pytest.fixture
def photo_config(small_config, policy_folder, test_data, tmp_path):
    """A function from a config's name and a file of photographs to a small config."""

    def make(name, file, **changes):
        values = {
            "data.source": str(test_data("data/photos") / file),
            "data.cache_dir": str(tmp_path / "cache"),
            "hooks.probe_every": 0,
        }
        return small_config(name, policy=policy_folder, **values | changes)

    return make


WIDTHS = {
    "rl.rollout.image_prompts": 2,
    "rl.rollout.text_prompts": 2,
    "rl.rollout.image_prompt_length": 128,
    "rl.rollout.text_prompt_length": 600,
}
SFT_WIDTHS = {
    "sft.generation_prompt_length": 128,
    "sft.understanding_prompt_length": 560,
    "sft.target_length": 128,
}
PARQUET, JSON_LINES = "train-00000-of-00001.parquet", "records.jsonl"


def with_rewards(config, image="pixel", text="accuracy"):
    config["rewards"] |= {"image": {image: 1.0}, "text": {text: 1.0}}
    return config


def test_two_steps_of_reinforcement_learning(photo_config, small_world, tmp_path):
    runs = {}
    with small_world():
        for file in (PARQUET, JSON_LINES):
            config = with_rewards(photo_config("unified", file, **WIDTHS))
            runs[file] = prepare(config, tmp_path / file)
        assert [math.isfinite(r.metrics["loss"]) for r in train(runs[PARQUET])] == [True, True]

        # Both files give the same batches.
        first, second = (next(run.stage.data_iterator()) for run in runs.values())
    for task, part in first.items():
        for name in ("tokens", "mask", "images"):
            values = (vars(batch[task].prompts)[name] for batch in (first, second))
            np.testing.assert_array_equal(*values, err_msg=f"{task} {name}")
        assert part.prompts.mask.any()
    assert first["text"].prompts.images.std() > 0.1


def test_batches_of_supervised_training(photo_config, small_world, tmp_path):
    with small_world():
        stage = prepare(photo_config("cold_sft", PARQUET, **SFT_WIDTHS), tmp_path / "sft").stage
        batch = next(stage.data_iterator())
    texts = [
        stage.setup.tokenizer.decode(tokens[mask])
        for tokens, mask in zip(batch.understanding.tokens, batch.understanding.mask, strict=True)
    ]
    solutions = {record.solution for record in map(stage.train_records.text_record, range(12))}
    captions = {record.prompt for record in map(stage.train_records.text_record, range(12))}
    assert texts and set(texts) <= solutions | captions
    images = batch.generation.images
    assert images.shape == (4, 16, 16, 3) and images.std() > 0.1


@pytest.mark.parametrize(
    ("name", "lines", "changes", "message"),
    [
        (
            "unified",
            '{"prompt": "a cat"}\n{"prompt": "a dog"}\n',
            WIDTHS,
            "2 of 2 training records cannot be used: .*the text task needs a picture, which the",
        ),
        (
            "unified",
            '{"prompt": "a cat"}\n{"prompt": "a dog"}\n',
            WIDTHS | {"rl.rollout.text_prompts": 0},
            "2 of 2 training records cannot be used: .*reward 'pixel' needs a picture",
        ),
        (
            "cold_sft",
            '{"prompt": "a cat"}\n' * 4,
            SFT_WIDTHS,
            "4 of 4 training records cannot be used: .*supervised training needs a picture",
        ),
        (
            "tokenizer",
            '{"prompt": "a cat"}\n' * 4,
            {},
            "4 of 4 training records cannot be used: .*the image tokenizer needs a picture",
        ),
    ],
)
def test_records_that_lack_what_a_task_needs(
    photo_config, small_world, tmp_path, name, lines, changes, message
):
    (tmp_path / "prompts.jsonl").write_text(lines)
    config = photo_config(name, "", **changes)
    config["data"]["source"] = str(tmp_path / "prompts.jsonl")
    if name == "unified":
        with_rewards(config)
    with small_world(), pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "run")


def test_prompts_alone_train_the_image_task(photo_config, small_world, test_data, tmp_path):
    changes = WIDTHS | {"rl.rollout.text_prompts": 0}
    config = with_rewards(photo_config("refined_t2i", "", **changes), "redness", "letters")
    config["rewards"]["text"] = {}
    config["data"]["source"] = f"geneval:{test_data('data/geneval')}"
    with small_world():
        stage = prepare(config, tmp_path / "run").stage
        assert len(stage.train_records) == 553
        batch = next(stage.data_iterator())
    assert set(batch) == {"image"} and batch["image"].prompts.images is None
