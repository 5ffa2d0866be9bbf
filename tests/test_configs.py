"""Every config builds and trains as it is at size tiny, builds without weights at full size, and refuses the rest."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import make_mesh
from corl_jax.core.trees import count
from corl_jax.pipelines.config import read_pipeline
from corl_jax.reward_models import collection
from corl_jax.reward_models.base import load_reward_model
from corl_jax.stages.rl.config import read_rl_config
from corl_jax.engine.loop import train
from corl_jax.stages.run import STAGES, optim_config, prepare
from corl_jax.stages.setup import build_setup

PIPELINES = ("corl",)
NAMES = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", *PIPELINES) and "def get_config" in path.read_text()
)
STAGE_TWO = ("refined_t2i", "refined_mc", "refined_oe")


def test_there_are_configs():
    assert {"tokenizer", "sft", "unified", "cycle", "counting", "cold_sft", *STAGE_TWO} <= set(
        NAMES
    )


@pytest.mark.parametrize(
    ("name", "arg"), [*((name, None) for name in NAMES), ("unified", "tiny,rewards=paper")]
)
def test_two_steps(
    small_config,
    small_world,
    tiny_policy_folder,
    dot_policy_folder,
    tmp_path,
    monkeypatch,
    name,
    arg,
):
    """Recipes that only change settings of others start from a smaller policy, whose pictures no parser reads."""
    opened: list[str] = []
    monkeypatch.setattr(
        collection,
        "load_reward_model",
        lambda kind, *rest: opened.append(kind.hub_id) or load_reward_model(kind, *rest),
    )
    recipe = name not in ("tokenizer", "sft", "unified")
    config = small_config(name, arg, policy=dot_policy_folder if recipe else tiny_policy_folder)
    if recipe:
        config["init_from"] = str(dot_policy_folder)
    if config["stage"] == "rl":
        config["hooks"]["probe_every"] = 1
        config["rl"] |= {key: 2 for key in ("pictures", "questions") if config["rl"][key]}
        config["data"]["limit"] = min(config["data"]["limit"], 8)
        config["rewards"]["image"] = {"pixel": 1.0} if recipe else config["rewards"]["image"]
    with small_world():
        results = list(train(prepare(config, tmp_path / "run")))
    assert [result.step for result in results] == [1, 2]
    assert all(math.isfinite(value) for result in results for value in result.metrics.values())
    assert set(config["show"]) <= {name for result in results for name in result.metrics}
    assert results[0].metrics["grad_norm"] >= 0
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    if arg is not None:  # BLIP, BERT and VGG, at tiny sizes, decide alone what a picture is worth
        assert len(opened) == len(set(opened)) == 3
        assert {"image/reward/cycle_both", "image/reward/matching"} <= set(results[0].metrics)
        assert results[0].metrics["image/reward_std_share/cycle_both"] > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_full_size_builds_without_weights(small_config, small_world, name):
    config = small_config(name, "janus_pro_1b", policy="")
    config["init_from"] = ""
    with small_world():
        parts = build_setup(config)
        assert count(parts.param_specs) > 2.0e9 and parts.cfg.image_tokens == 576
        assert STAGES[config["stage"]](config, parts, optimizer=None).rows


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(small_config, name):
    small_config("unified")  # makes configs importable
    get_config = importlib.import_module(f"configs.{name}").get_config
    for arg, says in (
        ("huge", "unknown model size 'huge'; expected one of tiny, janus_pro_1b"),
        ("mesh=cube", "unknown mesh 'cube'; expected one of auto, spread, wide, cpu"),
        ("tiny,colour=red", "unknown config argument 'colour'; expected .*mesh, .*size"),
    ):
        with pytest.raises(UserError, match=says):
            get_config(arg)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_keys_are_refused_and_arguments_arrive(small_config, name):
    small_config("unified")
    config = importlib.import_module(f"configs.{name}").get_config("size=janus_pro_1b,mesh=cpu8")
    assert config.model.size == "janus_pro_1b" and (config.mesh.data, config.mesh.fsdp) == (4, 2)
    with pytest.raises((AttributeError, KeyError)):
        config.lock().update_from_flattened_dict({"optim.colour": 1})
    plain = importlib.import_module(f"configs.{name}").get_config()
    assert plain.stage in STAGES and plain.steps > 0 and plain.model.size == "tiny"
    assert optim_config(plain.to_dict()).total_steps == plain.steps * plain.updates_per_step


@pytest.mark.parametrize("size", ["janus_pro_1b", "janus_pro_7b"])
def test_full_size_has_the_papers_values(small_config, size):
    small_config("unified")
    config = importlib.import_module("configs.unified").get_config(size).to_dict()
    settings = read_rl_config(config, config["updates_per_step"])
    assert (settings.pictures, settings.questions, settings.group, settings.guidance) == (
        16,
        16,
        8,
        5.0,
    )
    assert (settings.pairing, settings.text_weight, settings.needs_reference) == (
        "unified",
        0.8,
        False,
    )
    assert (settings.text_prompt_length, settings.completion_length) == (1024, 576)
    optim = optim_config(config)
    assert optim.learning_rate == 4e-6 and optim.total_steps * settings.pictures == pytest.approx(
        22_479, abs=16
    )
    assert config["init_from"].startswith("deepseek-community/Janus-Pro-") and config[
        "trainable"
    ] == ("language_model/*",)


@pytest.mark.parametrize(
    ("size", "chips", "data", "fsdp"),
    [
        ("tiny", 8, 8, 1),
        ("janus_pro_1b", 8, 1, 8),
        ("janus_pro_1b", 64, 2, 32),
        ("janus_pro_7b", 64, 4, 16),
    ],
)
def test_each_size_has_the_mesh_that_its_plans_chose(small_config, size, chips, data, fsdp):
    small_config("unified")
    config = importlib.import_module("configs.unified").get_config(size)
    mesh = make_mesh(config.mesh.to_dict(), jax.devices()[:1] * chips)
    assert dict(mesh.shape) == {"data": data, "fsdp": fsdp, "tensor": 1}


def full(name, size="janus_pro_1b"):
    return importlib.import_module(f"configs.{name}").get_config(size).to_dict()


@pytest.mark.parametrize(
    ("name", "asked", "prompts"),
    [(n, t, p) for n, t, p in zip(STAGE_TWO, ("image", "text", "text"), (16, 32, 32), strict=True)],
)
def test_stage_two_has_the_papers_values(small_config, name, asked, prompts):
    small_config("unified")
    config = full(name)
    s = read_rl_config(config, 1)
    assert (s.asked, s.prompts(asked), s.group) == ((asked,), prompts, 16)
    assert (s.kl[asked].schedule, s.kl[asked].start, optim_config(config).learning_rate) == (
        "constant",
        0.02,
        1e-6,
    )
    assert (s.image_prompt_length, s.text_prompt_length, s.completion_length) == (256, 1024, 512)
    assert config["init_from"] == "runs/unified" and config["data"]["name"] == "records"
    assert config["data"]["qa_type"] == {"refined_mc": "MC", "refined_oe": "OE"}.get(name, "")
    assert {"cycle_both", "matching"} == set(s.rewards["image"]) and {"accuracy", "format"} == set(
        s.rewards["text"]
    )


def test_the_pilot_has_the_papers_values(small_config):
    small_config("unified")
    for name, asked in (
        ("separate_t2i", ("image",)),
        ("separate_und", ("text",)),
        ("cycle", ("image", "text")),
    ):
        s = read_rl_config(full(name), 1)
        assert (s.asked, s.group, s.needs_reference) == (asked, 8, False)
        assert set(s.rewards["image"]) == {"clip"} and s.alternate == (name == "cycle")


@pytest.mark.parametrize(
    ("name", "kind", "betas"),
    [("counting", "count", (0.07, 0.04, 0.1)), ("geometry", "relation", (0.01, 0.0, 0.02))],
)
def test_othink_has_the_papers_values(small_config, name, kind, betas):
    from corl_jax.objectives.kl import schedules

    tiny, large = small_config(name), full(name)
    assert tiny["data"]["questions"] == [kind] and large["data"]["limit"] == (
        100 if name == "counting" else 0
    )
    s = read_rl_config(large, 1)
    assert (s.asked, s.group, s.completion_length) == (("text",), 8, 512)
    cfg = s.kl["text"]
    found = [float(schedules[cfg.schedule](cfg, step, 0.0, 0.0, 1000)) for step in (0, 300, 1000)]
    assert found == pytest.approx(betas)
    assert read_rl_config(tiny, 1).kl["text"] == cfg


def test_records_in_files_train(small_config, small_world, dot_policy_folder, tmp_path):
    """The full-size configs' way to data, at a tiny size: rows of a file, of one type alone."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(8):
        Image.fromarray(np.full((20, 30, 3), 30 * i, np.uint8)).save(folder / f"{i}.png")
        said, type_ = ("B", "MC") if i % 2 else ("red", "OE")
        kind = {
            "qa_solution": f"<think> a red circle </think> <answer> {said} </answer>",
            "qa_type": type_,
        }
        options = "\nOptions:\nA. red\nB. blue" if i % 2 else ""
        rows.append(
            {
                "prompt": "a red circle",
                "real_image": f"{i}.png",
                "qa_problem": "what colour?" + options,
            }
            | kind
        )
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = {"data.name": "records", "data.dir": str(folder), "hooks.probe_every": 0}
    config = small_config("refined_oe", **small, **{"rl.rollout.text_prompts": 4})
    cold = small_config(
        "cold_sft", **small, **{"init_from": str(dot_policy_folder), "data.qa_type": "OE"}
    )
    with small_world():
        prepared = prepare(config, tmp_path / "run")
        assert [prepared.stage.train_records[i].answer for i in range(len(prepared.stage.train_records))] == [
            "red"
        ] * 4
        for run in (prepared, prepare(cold, tmp_path / "cold")):
            assert [math.isfinite(result.metrics["loss"]) for result in train(run)] == [True, True]
        with pytest.raises(
            UserError, match="config.data.dir='nowhere' has no train.jsonl; put the records there"
        ):
            prepare(config | {"data": config["data"] | {"dir": "nowhere"}}, tmp_path / "new")


@pytest.mark.parametrize("size", ["tiny", "janus_pro_1b", "janus_pro_7b"])
def test_the_pipeline_is_made_of_these(small_config, size):
    small_config("unified")
    config = importlib.import_module("configs.corl").get_config(size)
    config.seed = 3
    found = json.loads(config.to_json_best_effort())
    pipeline = read_pipeline(found, "runs/corl")
    assert pipeline.order == ("unified", *STAGE_TWO, "merged")
    assert [pipeline.sources(name) for name in STAGE_TWO] == [("unified",)] * 3
    assert {one["seed"] for one in found["train"].values()} == {3}
    own = importlib.import_module("configs.refined_mc").get_config(size).to_dict()
    differ = {
        key for key in own if json.loads(json.dumps(own[key])) != found["train"]["refined_mc"][key]
    }
    assert differ <= {"seed", "init_from", "steps", "evals", "hooks"}
    with pytest.raises(UserError, match="unknown model size 'huge'"):
        importlib.import_module("configs.corl").get_config("huge")
