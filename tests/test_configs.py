"""Every config trains at size tiny, has the papers' values at full size, and refuses typos."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from corl_jax.configs.one_chip import ONE_CHIP
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import make_mesh
from corl_jax.core.trees import count
from corl_jax.engine.loop import train
from corl_jax.objectives.kl import schedules
from corl_jax.pipelines.config import read_pipeline
from corl_jax.reward_models import collection
from corl_jax.reward_models.base import load_reward_model
from corl_jax.stages.rl.read_config import read_rl_config
from corl_jax.stages.run import prepare
from corl_jax.stages.setup import build_setup
from corl_jax.stages.start_checks import STAGES
from corl_jax.stages.whole_config import check_config, optim_config

PIPELINES = ("corl", "lmm_r1")
OWN_RECORDS = ("own_records",)
"""Configs that train nothing without a policy and records of the user (``tests/commands/test_init.py``)."""
NAMES = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", *PIPELINES, *OWN_RECORDS)
    and "def get_config" in path.read_text()
)
BASES = ("tokenizer", "sft", "unified")
"""Configs that stand for themselves; the others are recipes that change one of these."""
STAGE_TWO = ("refined_t2i", "refined_mc", "refined_oe")


def get_config(name, arg=None):
    """A config as ``main`` gets it."""
    return importlib.import_module(f"configs.{name}").get_config(arg)


def full_size_config(name, size="janus_pro_1b"):
    return get_config(name, size).to_dict()


def test_there_are_configs():
    assert {*BASES, "cycle", "counting", "cold_sft", *STAGE_TWO} <= set(NAMES)


@pytest.mark.parametrize(
    ("name", "arg"), [*((name, None) for name in NAMES), ("unified", "tiny,rewards=paper")]
)
def test_two_steps(
    small_config,
    small_world,
    varied_rewards,
    tiny_policy_folder,
    dot_policy_folder,
    tmp_path,
    monkeypatch,
    name,
    arg,
):
    """Recipes start from a smaller policy than tiny, whose images no parser reads."""
    opened: list[str] = []

    def load_and_note(spec, *args):
        opened.append(spec.hub_id)
        return load_reward_model(spec, *args)

    monkeypatch.setattr(collection, "load_reward_model", load_and_note)
    is_recipe = name not in BASES
    policy = dot_policy_folder if is_recipe else tiny_policy_folder
    config = small_config(name, arg, policy=policy)
    if is_recipe:
        config["init_from"] = str(policy)

    # Both tasks get a reward that differs between samples of a policy that has learnt nothing.
    if config["stage"] == "rl":
        config["hooks"]["probe_every"] = 1
        config["data"]["limit"] = min(config["data"]["limit"], 8)
        for key in ("image_prompts", "text_prompts"):
            config["rl"]["rollout"][key] = min(config["rl"]["rollout"][key], 2)
        config["rewards"]["text"]["letters"] = 1.0
        if is_recipe:
            config["rewards"]["image"] = {"pixel": 1.0}

    with small_world():
        results = list(train(prepare(config, tmp_path / "run")))
    assert [result.step for result in results] == [1, 2]
    for result in results:
        assert all(math.isfinite(value) for value in result.metrics.values())
        # Far above what rounding alone leaves of a gradient.
        assert result.metrics["grad_norm"] > 1e-3
    names = {name for result in results for name in result.metrics}
    assert set(config["progress_metrics"]) <= names
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()

    # The paper's rewards are those of BLIP, BERT and VGG, here of tiny sizes, each read once.
    if arg is not None:
        assert len(opened) == len(set(opened)) == 3
        assert {"image/reward/cycle_both", "image/reward/matching"} <= set(results[0].metrics)
        assert results[0].metrics["image/reward_std_share/cycle_both"] > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_full_size_builds_without_weights(small_config, small_world, name):
    config = small_config(name, "janus_pro_1b", policy="")
    config["init_from"] = ""
    with small_world():
        setup = build_setup(config)
        assert count(setup.param_specs) > 2.0e9 and setup.cfg.image_tokens == 576
        stage = STAGES[config["stage"]](config, setup, optimizer=None)
        assert stage.rows_per_step


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name):
    for arg, message in (
        ("huge", "the model size must be one of tiny, janus_pro_1b.*; got 'huge'"),
        ("mesh=cube", "the mesh must be one of auto, spread, wide, cpu.*; got 'cube'"),
        ("tiny,colour=red", "argument must be one of .*mesh, .*size.*; got 'colour'"),
    ):
        with pytest.raises(UserError, match=message):
            get_config(name, arg)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_arrive_and_unknown_keys_are_refused(name):
    config = get_config(name, "size=janus_pro_1b,mesh=cpu8")
    assert config.model.size == "janus_pro_1b" and (config.mesh.data, config.mesh.fsdp) == (4, 2)
    with pytest.raises((AttributeError, KeyError)):
        config.lock().update_from_flattened_dict({"optim.colour": 1})

    tiny = get_config(name)
    assert tiny.stage in STAGES and tiny.steps > 0 and tiny.model.size == "tiny"
    assert optim_config(tiny.to_dict()).total_steps == tiny.steps * tiny.updates_per_step


@pytest.mark.parametrize("size", ["janus_pro_1b", "janus_pro_7b"])
def test_unified_at_full_size_has_the_papers_values(size):
    config = full_size_config("unified", size)
    c = read_rl_config(config, config["updates_per_step"])
    assert (c.rollout.image_prompts, c.rollout.text_prompts, c.rollout.group_size) == (16, 16, 8)
    assert (c.rollout.text_prompt_length, c.rollout.completion_length) == (1024, 576)
    assert c.rollout.guidance_scale == 5.0
    assert (c.advantage.pairing, c.advantage.pairing_text_weight) == ("unified", 0.8)
    assert not c.needs_reference

    # One epoch of the paper's records.
    optim = optim_config(config)
    assert optim.learning_rate == 4e-6
    assert optim.total_steps * c.rollout.image_prompts == pytest.approx(22_479, abs=16)
    assert config["init_from"].startswith("deepseek-community/Janus-Pro-")
    assert config["trainable"] == ("language_model/*",)


@pytest.mark.parametrize("name", NAMES)
def test_full_size_holds_records_out_and_measures_them(name):
    """By the rewards of the run, at the scale that it samples with; tiny runs measure the world."""
    config = full_size_config(name)
    if name in ("tokenizer", "language", "sft"):
        assert config["data"]["held_out"] == 0
        return
    assert config["data"]["held_out"] == 0.01
    assert get_config(name).data.held_out == 0
    if name == "cold_sft":
        return
    evals, rollout = config["evals"], config["rl"]["rollout"]
    if name == "text_first":
        # Its questions tell the caption, which no evaluation should.
        assert evals["num_records"] == 0
        return
    assert evals["num_records"] == (64 if name == "geometry" else 128)
    assert (evals["scoring"], evals["guidance_scales"]) == ("rewards", (5.0,))
    assert rollout["guidance_scale"] == 5.0 and config["hooks"]["probe_every"] == 100
    assert get_config(name).evals.scoring == "world"

    # A flag switches all of it off again.
    off = get_config(name, "janus_pro_1b").lock()
    off.update_from_flattened_dict(
        {"data.held_out": 0.0, "evals.num_records": 0, "hooks.probe_every": 0}
    )
    check_config(off.to_dict())


@pytest.mark.parametrize(
    ("size", "chips", "data", "fsdp"),
    [
        ("tiny", 8, 8, 1),
        ("janus_pro_1b", 8, 1, 8),
        ("janus_pro_1b", 64, 2, 32),
        ("janus_pro_7b", 64, 4, 16),
    ],
)
def test_each_size_has_the_mesh_that_its_plans_chose(size, chips, data, fsdp):
    config = get_config("unified", size)
    mesh = make_mesh(config.mesh.to_dict(), jax.devices()[:1] * chips)
    assert dict(mesh.shape) == {"data": data, "fsdp": fsdp, "tensor": 1}


@pytest.mark.parametrize(
    ("name", "task", "prompts"),
    [("refined_t2i", "image", 16), ("refined_mc", "text", 32), ("refined_oe", "text", 32)],
)
def test_stage_two_has_the_papers_values(name, task, prompts):
    config = full_size_config(name)
    c = read_rl_config(config, 1)
    assert (c.tasks, c.rollout.prompts[task], c.rollout.group_size) == ((task,), prompts, 16)
    assert (c.kl[task].schedule, c.kl[task].start) == ("constant", 0.02)
    assert optim_config(config).learning_rate == 1e-6
    assert (c.rollout.image_prompt_length, c.rollout.text_prompt_length) == (256, 1024)
    assert c.rollout.completion_length == 512

    assert config["init_from"] == "runs/unified"
    assert config["data"]["qa_type"] == {"refined_mc": "MC", "refined_oe": "OE"}.get(name, "")
    # Rewards of pictures need reward models, so only a run that trains pictures has them.
    image_rewards = {"cycle_both", "matching"} if task == "image" else set()
    assert set(c.rewards["image"]) == image_rewards
    assert set(c.rewards["text"]) == {"accuracy", "format"}


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("separate_t2i", ("image",)), ("separate_und", ("text",)), ("cycle", ("image", "text"))],
)
def test_the_pilot_has_the_papers_values(name, tasks):
    c = read_rl_config(full_size_config(name), 1)
    assert (c.tasks, c.rollout.group_size, c.needs_reference) == (tasks, 8, False)
    assert set(c.rewards["image"]) == ({"clip"} if "image" in tasks else set())
    assert c.rollout.alternate_every == (1 if name == "cycle" else 0)


@pytest.mark.parametrize(
    ("name", "kind", "coefficients"),
    [("counting", "count", (0.07, 0.04, 0.1)), ("geometry", "relation", (0.01, 0.0, 0.02))],
)
def test_othink_has_the_papers_values(small_config, name, kind, coefficients):
    tiny, full_size = small_config(name), full_size_config(name)
    assert tiny["data"]["question_kinds"] == [kind]
    assert full_size["data"]["limit"] == (100 if name == "counting" else 0)

    c = read_rl_config(full_size, 1)
    assert (c.tasks, c.rollout.group_size, c.rollout.completion_length) == (("text",), 8, 512)
    kl = c.kl["text"]
    values = [float(schedules[kl.schedule](kl, step, 0.0, 0.0, 1000)) for step in (0, 300, 1000)]
    assert values == pytest.approx(coefficients)
    assert read_rl_config(tiny, 1).kl["text"] == kl


@pytest.fixture
def records_folder(tmp_path):
    """Eight records in files: grey images, and questions of both types in turns."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(8):
        Image.fromarray(np.full((20, 30, 3), 30 * i, np.uint8)).save(folder / f"{i}.png")
        is_choice = i % 2 == 1
        answer = "B" if is_choice else "red"
        options = "\nOptions:\nA. red\nB. blue" if is_choice else ""
        rows.append(
            {
                "prompt": "a red circle",
                "real_image": f"{i}.png",
                "qa_problem": "what colour?" + options,
                "qa_solution": f"<think> a red circle </think> <answer> {answer} </answer>",
                "qa_type": "MC" if is_choice else "OE",
            }
        )
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_records_in_files_train(
    small_config, small_world, dot_policy_folder, records_folder, tmp_path
):
    """The data of full-size configs, at a tiny size: rows of a file, of one type of question."""
    changes = {
        "data.source": str(records_folder),
        "hooks.probe_every": 0,
    }
    rl_config = small_config("refined_oe", **changes, **{"rl.rollout.text_prompts": 4})
    sft_changes = changes | {"init_from": str(dot_policy_folder), "data.qa_type": "OE"}
    sft_config = small_config("cold_sft", **sft_changes)
    with small_world():
        rl_run = prepare(rl_config, tmp_path / "rl")
        records = rl_run.stage.train_records
        assert [records[i].answer for i in range(len(records))] == ["red"] * 4
        for run in (rl_run, prepare(sft_config, tmp_path / "sft")):
            assert [math.isfinite(result.metrics["loss"]) for result in train(run)] == [True, True]

        rl_config["data"]["source"] = "nowhere"
        message = "config.data.source must be a folder or a file that exists, .*; got 'nowhere'"
        with pytest.raises(UserError, match=message):
            prepare(rl_config, tmp_path / "new")

        # No answer to these records could earn that reward.
        rl_config["data"]["source"] = str(records_folder)
        rl_config["rewards"]["text"] = {"accuracy": 1.0, "numeric": 1.0}
        message = "record 'train-1' .line 1 of .*train.jsonl'.: .*one number; got 'red'"
        with pytest.raises(UserError, match=message):
            prepare(rl_config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("size", ["tiny", "janus_pro_1b", "janus_pro_7b"])
def test_the_pipeline_is_made_of_these_configs(size):
    config = get_config("corl", size)
    config.seed = 3
    values = json.loads(config.to_json_best_effort())
    pipeline = read_pipeline(values, "runs/corl")
    assert pipeline.order == ("unified", *STAGE_TWO, "merged")
    assert [pipeline.sources(name) for name in STAGE_TWO] == [("unified",)] * 3
    assert {stage["seed"] for stage in values["train"].values()} == {3}

    # A stage differs from its config in what a pipeline decides.
    stage = values["train"]["refined_mc"]
    recipe = json.loads(json.dumps(get_config("refined_mc", size).to_dict()))
    differences = {key for key in recipe if recipe[key] != stage[key]}
    assert differences <= {"seed", "init_from", "steps", "evals", "hooks"}
    with pytest.raises(UserError, match="the model size must be one of .*; got 'huge'"):
        get_config("corl", "huge")


@pytest.mark.parametrize("size", ["tiny", "janus_pro_1b"])
def test_texts_come_before_pictures(size):
    values = json.loads(get_config("lmm_r1", size).to_json_best_effort())
    pipeline = read_pipeline(values, "runs/lmm_r1")
    assert pipeline.order == ("text_first", "unified")
    assert pipeline.sources("unified") == ("text_first",)
    rollouts = [stage["rl"]["rollout"] for stage in values["train"].values()]
    assert [rollout["question_pictures"] for rollout in rollouts] == [False, True]
    assert rollouts[0]["image_prompts"] == 0 < rollouts[1]["image_prompts"]
    assert [stage["data"]["template"] for stage in values["train"].values()][1] == "as_is"


def test_a_mesh_of_one_small_chip_sets_a_batch_that_fits_it():
    """Named chips, with adapters; every record is still seen once. Other meshes change nothing."""
    paper = get_config("unified", "janus_pro_1b,lora=32")
    for mesh in ONE_CHIP:
        c = get_config("unified", f"janus_pro_1b,lora=32,mesh={mesh}")
        rollout, records = c.rl.rollout, 1405 * 16
        assert rollout.image_prompts == rollout.text_prompts < paper.rl.rollout.image_prompts
        assert c.steps * rollout.image_prompts == records
        assert rollout.image_prompts % c.microbatches == 0
        assert c.evals.batch_size / paper.evals.batch_size == rollout.image_prompts / 16
        assert (c.lora.rank, c.lora.base_dtype) == (32, "bfloat16")
        assert make_mesh(c.mesh.to_dict(), jax.devices()[:1]).size == 1
        read_rl_config(c.to_dict(), c.updates_per_step)

        # What is not 1B has other needs, and a base without adapters is trained itself.
        assert get_config("unified", f"mesh={mesh}").rl.rollout.image_prompts == 8
        assert get_config("unified", f"janus_pro_1b,mesh={mesh}").lora.base_dtype == "float32"
    h100 = get_config("unified", "janus_pro_1b,lora=32,mesh=h100x1")
    assert (h100.steps, h100.microbatches) == (paper.steps, paper.microbatches)
