"""What a run may change when it goes on, and what is refused: widths of prompts, and data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import metric_rows
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.engine.loop import train
from corl_jax.stages.run import prepare, run

COUNTS = ("one", "two", "three", "four")


def write_rows(folder, rows):
    """Questions about pictures of one colour, as JSON lines."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / "image.png")
    lines = [
        {
            "id": f"r{i}",
            "prompt": "a red circle",
            "real_image": "image.png",
            "qa_problem": "how many objects are there?",
            "qa_solution": COUNTS[i % 4],
            "qa_type": "OE",
        }
        for i in range(rows)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture(scope="module")
def config(rl_config, tmp_path_factory):
    """Answers to questions of a folder, two steps."""
    folder = tmp_path_factory.mktemp("records") / "data"
    write_rows(folder, 12)
    return rl_config(
        **{
            "steps": 2,
            "data.source": str(folder),
            "rl.rollout.image_prompts": 0,
            "rl.rollout.text_prompt_length": 24,
            "hooks.probe_every": 0,
            "hooks.interference_every": 0,
            "hooks.save_every": 1,
            "evals.num_records": 0,
        }
    ), folder


def changed(config, **values):
    """A copy of a config with other values at dotted keys."""
    copy = json.loads(json.dumps(config))
    for key, value in values.items():
        *blocks, name = key.split(".")
        block = copy
        for part in blocks:
            block = block[part]
        block[name] = value
    return copy


def test_a_run_goes_on_with_wider_prompts_and_on_changed_data_if_that_is_accepted(
    config, small_world, tmp_path
):
    config, folder = config
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    with small_world():
        run(config, unbroken)
        results = train(prepare(config, resumed))
        assert next(results).step == 1
        results.close()

        # Wider prompts are padded more, which changes nothing but rounding.
        wider = changed(config, **{"rl.rollout.text_prompt_length": 48})
        run(wider, resumed)
        assert json.loads((resumed / "config.json").read_text())["rl"]["rollout"][
            "text_prompt_length"
        ] == 48  # fmt: skip
        rows, expected = metric_rows(resumed), metric_rows(unbroken)
        assert [row["step"] for row in rows] == [1, 2]
        assert rows[0] == expected[0] and rows[1].keys() == expected[1].keys()
        for name, value in rows[1].items():
            np.testing.assert_allclose(value, expected[1][name], rtol=1e-3, atol=1e-3)
        assert expected[1]["grad_norm"] > 0 and expected[1]["text/reward_std"] > 0

        # Other records are refused, unless the user accepts them for this start.
        write_rows(folder, 14)
        longer = changed(wider, steps=3)
        before = {path: path.read_bytes() for path in resumed.rglob("*") if path.is_file()}
        with pytest.raises(
            UserError, match=r"had count 12, .* has count 14, .*data.changed=accept"
        ):
            prepare(longer, resumed)
        assert {path: path.read_bytes() for path in before} == before
        prepared = prepare(changed(longer, **{"data.changed": "accept"}), resumed)
        assert any("count 14" in note for note in prepared.notes)
        assert json.loads((resumed / "config.json").read_text())["data"]["changed"] == "refuse"
