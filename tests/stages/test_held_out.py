"""A share of the training records that training never sees, and evaluations of it by rewards."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.selection import is_held_out
from corl_jax.engine.workdir import Workdir
from corl_jax.stages.evaluate_run import RunEvaluation
from corl_jax.stages.run import prepare, run
from corl_jax.stages.setup import open_records

SHARE = 0.48
HELD_OUT = {3, 4, 6, 7, 11, 16, 18, 19}
"""Of the rows 1 to 20 of ``train.jsonl``, by ``sha256sum`` of their ids."""


def write_rows(folder, rows):
    folder.mkdir(exist_ok=True)
    for i, row in enumerate(rows):
        Image.fromarray(np.full((20, 30, 3), 12 * i, np.uint8)).save(folder / f"{i}.png")
        row.setdefault("image", f"{i}.png")
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def whole_rows(n=20):
    """Rows with a caption, a picture, and a question with an answer."""
    return [
        {"prompt": "a red circle", "question": "what colour?", "answer": ("red", "blue")[i % 2]}
        for i in range(n)
    ]


@pytest.fixture
def folder(tmp_path):
    """Twenty records without a test split."""
    return write_rows(tmp_path / "data", whole_rows())


def numbers(records):
    """Row numbers of records with ids such as ``train-3``."""
    ids = (records[i].id for i in range(len(records)))
    return {int(record_id.rpartition("-")[2]) for record_id in ids}


def data_config(small_config, folder, **changes):
    values = {"data.source": str(folder), "data.held_out": SHARE, "hooks.probe_every": 0}
    return small_config("unified", **values | changes)


def test_the_share_is_a_hash_of_the_id_alone():
    """Values by hand: the first eight digits of ``printf train-3 | sha256sum`` are 1bca5347."""
    first = hashlib.sha256(b"train-3").hexdigest()[:8]
    assert first == "1bca5347"
    fraction = int(first, 16) / 2**32
    assert fraction == pytest.approx(0.1086, abs=1e-4)
    assert is_held_out("train-3", fraction + 1e-6) and not is_held_out("train-3", fraction - 1e-6)
    assert {i for i in range(1, 21) if is_held_out(f"train-{i}", SHARE)} == HELD_OUT

    # A larger share keeps the records of a smaller one, and shares are as large as they say.
    ids = [f"record {i}" for i in range(20_000)]
    small, large = ({name for name in ids if is_held_out(name, share)} for share in (0.01, 0.3))
    assert small < large and not any(is_held_out(name, 0.0) for name in ids)
    assert len(small) == pytest.approx(200, abs=45) and len(large) == pytest.approx(6000, abs=200)


def test_both_sides_are_all_records_and_other_rows_change_nothing(small_config, folder, tmp_path):
    config = data_config(small_config, folder)
    train, test = (open_records(config, split) for split in ("train", "test"))
    assert numbers(test) == HELD_OUT and numbers(train) == {*range(1, 21)} - HELD_OUT

    # A limit counts for training, kinds and types for both sides.
    limited = data_config(small_config, folder, **{"data.limit": 3})
    assert numbers(open_records(limited, "train")) == {1, 2, 5}
    assert numbers(open_records(limited, "test")) == HELD_OUT
    rows = [row | {"kind": ("even", "odd")[i % 2]} for i, row in enumerate(whole_rows(), 1)]
    kinds = data_config(
        small_config,
        write_rows(tmp_path / "kinds", rows),
        **{"data.question_kinds": ("even",)},
    )
    assert numbers(open_records(kinds, "test")) == {i for i in HELD_OUT if i % 2 == 0}

    # Ids of their own, in another order, beside other rows: the same records.
    rows = [row | {"id": f"train-{i}"} for i, row in enumerate(whole_rows(), 1)][::-1]
    other = data_config(small_config, write_rows(tmp_path / "other", rows[:5] + rows[7:]))
    assert numbers(open_records(other, "test")) == HELD_OUT - {14, 15}


def test_rows_that_cannot_be_used_are_dropped_on_both_sides(small_config, folder):
    """Nothing takes the place of a held-out record; a row without an id counts as training's."""
    rows = whole_rows()
    rows[2]["prompt"] = "<begin_of_image>"
    rows[3] = {"prompt": ""}
    write_rows(folder, rows)
    config = data_config(
        small_config, folder, **{"data.on_bad": "drop", "hooks.probe_every": 1, "evals.seed": 0}
    )
    config["rl"]["rollout"] |= {"image_prompts": 4, "text_prompts": 4}
    stage = prepare(config, folder.parent / "run").stage
    assert {record.id for record in stage.probe.records["text"]} <= {
        f"train-{i}" for i in HELD_OUT - {3, 4}
    }
    assert len(stage.train_records) == 20 - len(HELD_OUT) + 1

    config["data"]["on_bad"] = "error"
    with pytest.raises(UserError, match="'train-3'|line 4 of") as error:
        prepare(config, folder.parent / "other")
    assert "cannot be used" in str(error.value) and not (folder.parent / "other").exists()


def test_every_part_of_a_mixture_is_divided(small_config, folder):
    mixture = {
        "all": {"source": str(folder)},
        "few": {"source": str(folder), "limit": 2},
        "none": {"source": "nowhere", "image_weight": (0,), "text_weight": (0,)},
    }
    config = data_config(small_config, folder)
    config["data"]["mixture"] = mixture
    stage = prepare(config, folder.parent / "run").stage
    trained = [stage.train_records[i].id for i in range(len(stage.train_records))]
    assert "few/train-1" in trained and len(trained) == 12 + 2
    held_out = {record.id for record in stage.probe._held_out.first(16, 0)}
    assert held_out == {f"{part}/train-{i}" for part in ("all", "few") for i in HELD_OUT}
    assert not held_out & set(trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.held_out": 0.001}, "held_out must hold out some of the 20 records of config.data and "
                                   "leave some; got 0.001, which holds out 0. Raise it, or set 0"),
        ({"data.held_out": 0.999}, "got 0.999, which holds out 20. Lower it, or set 0"),
        ({"data.held_out": 0.0}, "has no test.jsonl .* add them, hold out a share of the training"),
        ({"evals.num_records": 9}, "num_records must be at most the 8 held-out records; got 9. Lower"),
        ({"evals.guidance_scales": (-1.0,)}, "evals.guidance_scales"),
        ({"evals.scoring": "world"}, "8 of 8 held-out records cannot be used: .*shapes_strict"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_out_is_found_before_anything_is_written(
    small_config, tmp_path, changes, message
):
    # Words that the tokenizer knows, and no caption of the embedded world.
    prompt = "red red" if "evals.scoring" in changes else "a red circle"
    rows = [row | {"prompt": prompt} for row in whole_rows()]
    values = {"evals.num_records": 8, "evals.scoring": "rewards"} | changes
    config = data_config(small_config, write_rows(tmp_path / "data", rows), **values)
    config["rewards"]["image"] = {"pixel": 1.0}
    with pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def paper_run(small_config, tmp_path_factory):
    """A run shaped as one of full size: files without a test split, CoRL's rewards."""
    tmp_path = tmp_path_factory.mktemp("paper")
    # Of the held-out ones, 3 has nothing to ask and 4 nothing to draw.
    rows = whole_rows()
    rows[2] = {"prompt": "a blue square"}
    rows[3] = {"question": "what colour?", "answer": "red"}
    for i in (2, 3):
        rows[i]["image"] = f"{i}.png"
    folder = write_rows(tmp_path / "data", rows)
    config = small_config(
        "unified",
        "tiny,rewards=paper",
        **{
            "data.source": str(folder),
            "data.held_out": SHARE,
            "evals.num_records": 8,
            "evals.scoring": "rewards",
            "evals.guidance_scales": (2.0,),
            "evals.batch_size": 4,
            "hooks.probe_every": 1,
            "hooks.interference_every": 0,
            "rl.rollout.image_prompts": 2,
            "rl.rollout.text_prompts": 2,
            **{f"kl.{task}.schedule": "none" for task in ("image", "text")},
            **{f"kl.{task}.end": 0.0 for task in ("image", "text")},
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        from corl_jax.reward_models import collection

        opened = []
        load = collection.load_reward_model
        patch.setattr(
            collection,
            "load_reward_model",
            lambda spec, *args: opened.append(spec.hub_id) or load(spec, *args),
        )
        run(config, tmp_path / "run")
    assert len(opened) == len(set(opened)) == 3
    return config, tmp_path / "run"


def test_a_run_is_measured_by_its_rewards_before_and_after(paper_run):
    config, workdir = paper_run
    evals = json.loads((workdir / "eval.json").read_text())
    assert evals["guidance"] == 2.0 and evals["after_step"] == 2
    image_rewards = [f"/{name}" for name in config["rewards"]["image"]]
    text_rewards = [f"/{name}" for name in config["rewards"]["text"]]
    names = {f"reward/image{name}@w=2" for name in ("", *image_rewards)}
    names |= {f"reward/text{name}{how}" for name in ("", *text_rewards) for how in ("", "@greedy")}
    for side in ("before", "after"):
        metrics = evals[side]
        assert names <= metrics.keys() and not any(name.startswith("t2i") for name in metrics)
        for name in names:
            assert metrics[name]["n"] == 7 and np.isfinite(metrics[name]["stderr"])
        # The total is the weighted sum, and the text's accuracy is that of the answers.
        weights = config["rewards"]["image"]
        total = sum(w * metrics[f"reward/image/{n}@w=2"]["value"] for n, w in weights.items())
        assert metrics["reward/image@w=2"]["value"] == pytest.approx(total, rel=1e-5)
        for name, how in (("qa_greedy", "@greedy"), ("qa_sampled", "")):
            assert metrics[name] == metrics[f"reward/text/accuracy{how}"]
    changed = [name for name in names if evals["before"][name] != evals["after"][name]]
    assert any(name.startswith("reward/image") for name in changed)

    # Probes measure held-out records on the way.
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"image/held_out_reward", "text/held_out_reward"} <= rows[0].keys()


def test_galleries_and_report_have_rewards_in_place_of_ticks(paper_run):
    _, workdir = paper_run
    gallery = json.loads((workdir / "samples" / "gallery_after.json").read_text())
    pictures = [picture for entry in gallery["prompts"] for picture in entry["pictures"]]
    assert len(gallery["prompts"]) == 2 and len(pictures) == 8
    assert all(picture.keys() == {"png", "reward"} for picture in pictures)
    answers = json.loads((workdir / "samples" / "answers_before.json").read_text())
    assert len(answers) == 7 and {"right", "text"} <= answers[0]["greedy"].keys()
    assert (workdir / "samples" / "gallery_before.png").is_file()

    page = (workdir / "report.html").read_text()
    assert "Reward of pictures, guidance 2" in page and "Reward of answers, sampled" in page
    assert "Rewards of pictures" in page and "its total reward" in page
    assert "exactly" not in page.partition("<h2>Curves</h2>")[0]
    reward = pictures[0]["reward"]
    assert f'<div class="soft small">{reward:.2f}</div>' in page


def test_a_run_that_goes_on_does_not_measure_before_again(paper_run, tmp_path, monkeypatch):
    config, workdir = paper_run
    copied = tmp_path / "run"
    shutil.copytree(workdir, copied)
    measured = []
    evaluate = RunEvaluation._evaluate

    def note(self, params, name, step):
        measured.append(name)
        return evaluate(self, params, name, step)

    monkeypatch.setattr(RunEvaluation, "_evaluate", note)
    run(config, copied)
    assert measured == []
    before = json.loads((workdir / "eval.json").read_text())
    assert json.loads((copied / "eval.json").read_text()) == before

    # The same policy measured anew has the same numbers.
    prepared = prepare(config, copied)
    trained = prepared.stage.train_records
    assert numbers(trained) == {*range(1, 21)} - HELD_OUT
    assert numbers(prepared.evaluation.records) == HELD_OUT
    assert numbers(prepared.stage.probe.records["image"]) <= HELD_OUT - {4}
    evaluation = RunEvaluation(prepared.setup, Workdir(copied), prepared.evaluation, 2)
    params = prepared.setup.rollout_params(prepared.setup.load_params())
    assert evaluation._evaluate(params, "before", 0) == before["before"]


def test_a_left_out_task_is_probed_where_records_have_what_it_needs(small_config, tmp_path):
    rows = [{key: row[key] for key in ("question", "answer")} for row in whole_rows()]
    folder = write_rows(tmp_path / "data", rows)
    changes = {"hooks.probe_every": 1, "rl.rollout.image_prompts": 0, "rl.rollout.text_prompts": 2}
    config = data_config(small_config, folder, **changes)
    stage = prepare(config, tmp_path / "run").stage
    assert stage.probe.records.keys() == {"text"}

    # A task that is trained must have its records.
    rows = [row | {"prompt": "a red circle"} for row in rows]
    rows = [
        row if i in HELD_OUT - {3} or i not in HELD_OUT else {"prompt": "a red circle"}
        for i, row in enumerate(rows, 1)
    ]
    folder = write_rows(tmp_path / "data", rows)
    config = data_config(small_config, folder, **changes | {"rl.rollout.text_prompts": 8})
    config["data"]["check"] = "none"
    with pytest.raises(UserError, match="must have 8 that the text task can use.*got 7 of 8"):
        prepare(config, tmp_path / "other")


def test_work_directories_from_before_held_out_records_go_on(small_config, folder, tmp_path):
    config = data_config(small_config, folder, **{"data.held_out": 0.0})
    prepare(config, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["data"]["held_out"], saved["evals"]["scoring"]
    path.write_text(json.dumps(saved))
    prepare(config, tmp_path / "run")
    config["data"]["held_out"] = SHARE
    with pytest.raises(UserError, match="data.held_out was 0.0 and is now 0.48"):
        prepare(config, tmp_path / "run")
