"""Every config builds and trains as it is at size tiny, builds without weights at full size, and refuses the rest."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.trees import count
from corl_jax.stages.assembly import assemble
from corl_jax.stages.rl_settings import read_settings
from corl_jax.stages.run import STAGES, optim_config, prepare, steps

NAMES = sorted(
    path.stem
    for path in (Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem not in ("__init__", "common") and "def get_config" in path.read_text()
)


def test_there_are_configs():
    assert {"tokenizer", "sft", "unified"} <= set(NAMES)


@pytest.mark.parametrize(("name", "arg"), [*((name, None) for name in NAMES), ("unified", "tiny,rewards=paper")])
def test_two_steps(small_config, small_world, tiny_policy_folder, tmp_path, name, arg):
    config = small_config(name, arg, policy=tiny_policy_folder)
    if config["stage"] == "rl":
        config["rl"] |= {key: 2 for key in ("pictures", "questions") if config["rl"][key]}
    with small_world():
        results = list(steps(prepare(config, tmp_path / "run")))
    assert [result.step for result in results] == [1, 2]
    assert all(math.isfinite(value) for result in results for value in result.metrics.values())
    assert set(config["show"]) <= set(results[0].metrics) and results[0].metrics["grad_norm"] >= 0
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    if arg is not None:  # BLIP, BERT and VGG, at tiny sizes, decide alone what a picture is worth
        assert {"image/reward/cycle_both", "image/reward/matching"} <= set(results[0].metrics)
        assert results[0].metrics["image/share/cycle_both"] > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_full_size_builds_without_weights(small_config, small_world, name):
    config = small_config(name, "janus_pro_1b", policy="")
    config["init_from"] = ""
    with small_world():
        parts = assemble(config)
        assert count(parts.structs) > 2.0e9 and parts.cfg.image_tokens == 576
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
    settings = read_settings(config, config["updates_per_step"])
    assert (settings.pictures, settings.questions, settings.group, settings.guidance) == (16, 16, 8, 5.0)
    assert (settings.pairing, settings.text_weight, settings.needs_reference) == ("unified", 0.8, False)
    assert (settings.text_prompt_length, settings.completion_length) == (1024, 576)
    optim = optim_config(config)
    assert optim.learning_rate == 4e-6 and optim.total_steps * settings.pictures == pytest.approx(22_479, abs=16)
    assert config["init_from"].startswith("deepseek-community/Janus-Pro-") and config["trainable"] == (
        "language_model/*",
    )
