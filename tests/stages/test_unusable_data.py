"""What is wrong with the data of a run is found before its first step, and all of it at once."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.stages.run import prepare

ROW = {
    "prompt": "a red circle",
    "real_image": "images/0.png",
    "qa_problem": "how many objects are there?",
    "qa_solution": "one",
    "qa_type": "OE",
}


@pytest.fixture
def prepare_with(small_config, small_world, tmp_path):
    """A function from rows and overrides to a prepared run; a path is a file of rows."""

    def run(rows, stage="unified", text_reward="accuracy", image_reward="pixel", **overrides):
        folder = tmp_path / "data"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for i in range(8):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"images/{i}.png")
        if isinstance(rows, list):
            lines = [json.dumps({"id": f"r{i}"} | ROW | row) for i, row in enumerate(rows)]
            (folder / "train.jsonl").write_text("\n".join(lines))
        else:
            shutil.copy(rows, folder / "train.jsonl")

        values = {"data.source": str(folder), "hooks.probe_every": 0}
        if stage == "unified":
            values |= {"rl.rollout.image_prompts": 2, "rl.rollout.text_prompts": 2}
        config = small_config(stage, **values | overrides)
        if stage == "unified":
            config["rewards"] |= {"image": {image_reward: 1.0}, "text": {text_reward: 1.0}}
        with small_world():
            return prepare(config, tmp_path / "run")

    return run


def error_of(prepare_with, tmp_path, *args, **options):
    with pytest.raises(UserError) as error:
        prepare_with(*args, **options)
    assert not (tmp_path / "run").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "problem", "flag"),
    [
        (
            "rl_long_prompt",
            "its prompt has 58 tokens, at most 20 are allowed",
            "--config.rl.rollout.image_prompt_length=64",
        ),
        (
            "rl_placeholder_in_question",
            "has the special token <image_placeholder>",
            "--config.data.on_bad=drop",
        ),
    ],
)
def test_the_cases_of_the_data(test_data, prepare_with, tmp_path, name, problem, flag):
    rows = test_data("data") / "cases" / "records" / f"{name}.jsonl"
    message = error_of(prepare_with, tmp_path, rows)
    assert message.startswith("1 of 8 training records cannot be used: record 'r5' (line 6 of '")
    assert problem in message and flag in message

    # The flag mends it, and so does taking another record.
    key, _, value = flag.removeprefix("--config.").partition("=")
    value = int(value) if value.isdecimal() else value
    assert prepare_with(rows, **{key: value}).stage.train_records[5].id in ("r5", "r6")


def test_what_rewards_need_of_records(prepare_with, tmp_path):
    rows = [{}, {"cls_problem": "how many objects are there?", "cls_solution": "circle"}, {}]
    message = error_of(prepare_with, tmp_path, rows, image_reward="self_classes")
    # Both columns are missing, which is two problems of the same records.
    assert message.startswith("2 problems, and nothing was written:\n  1. 2 of 3 training records")
    for line in message.splitlines()[1:]:
        assert "record 'r0'" in line and "record 'r2'" in line and "'r1'" not in line
    assert "reward 'self_classes' needs class_question, which is absent" in message
    assert "reward 'self_classes' needs class_answer, which is empty" in message

    rows = [{}, {"qa_solution": "a red circle"}]
    message = error_of(prepare_with, tmp_path, rows, text_reward="numeric")
    assert message.startswith("1 of 2") and "record 'r1' (line 2 of" in message
    assert "must name exactly one number" in message

    rows = [{"prompt": "many circle"}, {}]
    message = error_of(prepare_with, tmp_path, rows, image_reward="shapes_soft")
    assert message.startswith("1 of 2") and "record 'r0'" in message


def test_supervised_training_checks_every_width(prepare_with, tmp_path):
    long = " ".join(["circle"] * 20)
    rows = [{"qa_solution": long}, {"qa_problem": long}, {}, {}]
    widths = {"sft.understanding_prompt_length": 24}
    message = error_of(prepare_with, tmp_path, rows, stage="sft", **widths)
    assert message.startswith("2 of 4") and "its target has 23 tokens" in message
    assert (
        "set --config.sft.target_length=24 --config.sft.understanding_prompt_length=40" in message
    )


def test_held_out_records_of_probes_are_read_before_the_run(prepare_with, tmp_path):
    message = error_of(prepare_with, tmp_path, [{}, {}], **{"hooks.probe_every": 1})
    # The flag that the first names would lead to the second.
    assert "1. " in message and "has no test.jsonl" in message
    assert "need 2 held-out records, and there are 2 records in all" in message


def test_widths_and_limits_may_change_in_a_run(prepare_with):
    prepare_with([{}, {}])
    changes = {"rl.rollout.image_prompt_length": 32, "rewards.options.timeout": 5.0}
    prepare_with([{}, {}], **changes, **{"data.on_bad": "drop", "data.check": "texts"})
    with pytest.raises(UserError, match="rl.rollout.group_size was 2 and is now 4"):
        prepare_with([{}, {}], **{"rl.rollout.group_size": 4})
