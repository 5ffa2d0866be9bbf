"""The planner: its programs are the stage's, its sizes those of real arrays, its verdict follows the memory."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest

from corl_jax.commands.cli import main
from corl_jax.core.sharding import make_mesh
from corl_jax.planner import memory
from corl_jax.planner.advice import advise
from corl_jax.planner.chips import CHIPS, Slice, open_slice
from corl_jax.planner.gpu_estimate import plan_by_formula
from corl_jax.planner.programs import PHASES, open_step
from corl_jax.planner.reward_programs import assumed
from corl_jax.planner.roofline import Plan, make_plan, wanted_gib
from corl_jax.planner.search import candidates
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.collection import SPECS

CONFIG = "--config=configs/unified.py"


@pytest.fixture(scope="module")
def config(small_config):
    """Two devices' worth of the embedded world, in float32 as on a CPU."""
    changes = {"mesh.data": 1, "mesh.fsdp": 2, "model.compute_dtype": "float32", "model.unroll": 1}
    return small_config("unified", steps=1, **changes)


@pytest.fixture(scope="module")
def step(config):
    return open_step(config, jax.devices()[:2])


@pytest.fixture(scope="module")
def plan(step):
    """Compiled for what is here, two CPU devices that pass for a v5e."""
    return make_plan(step, Slice("v5e:1x2", CHIPS["v5e"], 2, jax.devices()[:2], True))


def test_every_phase_is_compiled_and_adds_up(plan, step):
    assert set(plan.phases) == set(PHASES) and plan.phases["rewards"].peak_gib == 0
    for name in ("rollout_image", "rollout_text", "score", "update"):
        phase = plan.phases[name]
        assert phase.flops > 0 and phase.bytes > 0 and phase.compile_seconds > 0 and phase.bound_by
        assert (
            phase.peak_gib
            >= plan.parts["parameters"] + plan.parts["moments"] + plan.parts["reference"]
        )
    assert plan.fits and 0 < plan.peak_gib < plan.hbm_gib and plan.images_per_second_per_chip > 0
    assert (
        plan.phases["update"].collectives["all-gather"] > 0
        and plan.update_collectives_over_minimum > 0
    )
    assert plan.decode.cache_copies == 0 and plan.decode.bytes_over_minimum > 0.9


def held(tree):
    """GiB on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)) / 2**30


def test_sizes_are_those_of_arrays(step, config, small_world):
    from corl_jax.engine.optim import make_optimizer
    from corl_jax.stages.rl.stage import RlStage
    from corl_jax.stages.run import optim_config
    from corl_jax.stages.setup import build_setup

    with small_world(2):
        parts, optimizer = build_setup(config), make_optimizer(optim_config(config))
        state = RlStage(config, parts, optimizer).init()
    found = memory.parts(step)
    assert found["parameters"] == pytest.approx(held(state.params), rel=1e-6)
    assert found["moments"] == pytest.approx(held(state.opt_state), rel=1e-6)
    counts = {path: leaf.size for path, leaf in state.trainable.items()}
    layers = sum(size for path, size in counts.items() if path.startswith("language_model/layers/"))
    others = (
        sum(counts.values()) - layers - counts["language_model/embed/embedding"]
    )  # that is looked up where it lies
    assert (
        memory.update_collectives(step) == 4 * 3 * (2 * layers + others) / 2
    )  # two tasks, half lies elsewhere
    sampled = parts.for_rollout(state.params)
    moved = {path: leaf for path, leaf in sampled.items() if leaf is not state.params[path]}
    assert found["rollout_parameters"] == pytest.approx(held(moved), rel=1e-6) and moved


def test_a_reference_that_follows_is_part_of_the_state(config):
    step = open_step(
        config | {"rl": config["rl"] | {"reference_every": 3}, "updates_per_step": 2},
        jax.devices()[:2],
    )
    assert step.state.reference.params == step.state.trainable and step.state.reference.every == 6
    assert memory.parts(step)["reference"] == memory.on_chip(step.state.trainable) > 0


def test_adapters_leave_moments_of_their_own_size_and_no_copy_for_the_reference(
    config, small_world
):
    """Sizes of a step with adapters over a base in bfloat16 are those of arrays; its programs trace."""
    from corl_jax.engine.optim import make_optimizer
    from corl_jax.stages.rl.stage import RlStage
    from corl_jax.stages.run import optim_config
    from corl_jax.stages.setup import build_setup

    changed = config | {"lora": config["lora"] | {"rank": 4, "base_dtype": "bfloat16"}}
    step = open_step(changed, jax.devices()[:2])
    with small_world(2):
        parts = build_setup(changed)
        state = RlStage(changed, parts, make_optimizer(optim_config(changed))).init()
    found = memory.parts(step)
    assert found["parameters"] == pytest.approx(held(state.params), rel=1e-6)
    assert (
        found["moments"] == pytest.approx(held(state.opt_state), rel=1e-6)
        and found["reference"] == 0
    )
    assert found["moments"] == pytest.approx(2 * held(state.trainable), rel=1e-2)
    sampled = parts.for_rollout(state.params)
    moved = {path: leaf for path, leaf in sampled.items() if leaf is not state.params.get(path)}
    assert found["rollout_parameters"] == pytest.approx(held(moved), rel=1e-6)
    kernels = [
        path
        for path in sampled
        if path.startswith("language_model/layers/") and path.endswith("kernel")
    ]
    assert len(kernels) == 7 and moved.keys() >= set(
        kernels
    )  # merged, so never the arrays that are trained
    score, update = (step.trace(step.phases()[name][0]) for name in ("score", "update"))
    assert not any(
        "lora" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(score.args_info)
    )
    assert update.out_info[0].trainable.keys() == state.trainable.keys()
    adapters = sum(leaf.size for leaf in state.trainable.values())
    gathered = sum(state.params[path].size for path in kernels)
    assert (
        memory.update_collectives(step) == 2 * 4 * (3 * adapters + 2 * gathered) / 2
    )  # two tasks, half lies elsewhere


def test_reward_models_are_counted(small_config, step, config):
    """What the papers' rewards add to the same step, at the sizes that ``tiny`` has and at those of the hub."""
    rewards = {
        "image": {"cycle_both": 1.0, "matching": 1.0, "self_answer": 1.0},
        "text": dict(config["rewards"]["text"]),
    }
    how = {"captioner": "blip", "similarity": "bertscore", "closeness": "lpips"}
    models = dict.fromkeys(("captioner", "bert", "lpips"), "tiny")
    changed = config | {"rewards": rewards, "reward": config["reward"] | how | {"models": models}}
    asked = open_step(changed, jax.devices()[:2])
    assert (
        sorted(asked.reward_models) == ["bert", "captioner", "lpips"]
        and memory.parts(step)["reward_models"] == 0
    )
    opened = [
        load_reward_model(SPECS[name], "tiny", asked.parts.sharder).params
        for name in asked.reward_models
    ]
    assert memory.parts(asked)["reward_models"] == pytest.approx(held(opened), rel=1e-6)
    calls = asked.phases()["rewards"]
    assert [call.times for call in calls] == [
        1
    ] * 5  # a step has fewer samples than a call takes rows
    found = make_plan(asked, Slice("v5e:1x2", CHIPS["v5e"], 2, jax.devices()[:2], True))
    phase = found.phases["rewards"]
    assert (
        phase.flops > 0
        and phase.peak_gib > found.parts["reward_models"] > 0
        and not advise(found, asked)
    )
    far = changed["reward"] | {
        "models": {"captioner": "some/captioner", "bert": SPECS["bert"].home, "lpips": ""}
    }
    larger = open_step(changed | {"reward": far}, jax.devices()[:2])
    counts = {
        name: sum(np.prod(one.shape) for one in net.params.values())
        for name, net in larger.reward_models.items()
    }
    assert counts == {"bert": 108_891_648, "captioner": 223_971_644, "lpips": 14_716_160}
    assert [line.split(" is no folder")[0] for line in assumed(larger.stage)] == [
        "config.reward.models.captioner='some/captioner'",
        "config.reward.models.lpips=''",
    ]


def test_too_small_a_chip_does_not_fit_and_says_what_would(plan, step):
    small = dataclasses.replace(plan, slice_name="v5e:2x2", hbm_gib=plan.peak_gib * 0.6)
    said = advise(small, step)
    assert not small.fits and any("a larger slice: --topology=v5e:" in text for text in said)
    starved = dataclasses.replace(plan, slice_name="v5e:2x2", hbm_gib=plan.peak_gib / 100)
    assert any("chips with more memory" in text for text in advise(starved, step))


def test_a_phase_that_the_compiler_gives_up_on_does_not_fit(plan):
    failed = dataclasses.replace(plan.phases["update"], error="RESOURCE_EXHAUSTED")
    assert not dataclasses.replace(plan, phases=plan.phases | {"update": failed}).fits


@pytest.mark.parametrize(
    ("said", "gib"),
    [
        (
            "total memory required for HLO temporaries (128.25G) exceeds available HBM (15.75G).",
            128.25,
        ),
        ("Ran out of memory in memory space hbm. Used 16896.00M of 15.75G hbm.", 16.5),
    ],
)
def test_what_a_program_wanted_is_read_off_the_message(said, gib):
    assert wanted_gib("RESOURCE_EXHAUSTED: " + said) == gib
    with pytest.raises(ValueError, match="by how much is not said"):
        wanted_gib("RESOURCE_EXHAUSTED")


def test_a_formula_agrees_with_the_compiler_where_both_speak(plan, step):
    guess = plan_by_formula(step, Slice("h100:2", CHIPS["h100"], 2, jax.devices()[:2], False))
    assert not guess.compiled and guess.decode is None
    assert (
        guess.parts["parameters"] == plan.parts["parameters"]
        and guess.parts["caches"] == plan.parts["caches"]
    )
    for name in ("rollout_image", "rollout_text", "score", "update"):
        assert guess.phases[name].flops == plan.phases[name].flops


def test_candidates_divide(config):
    found = list(candidates(config, 8))
    assert {one["mesh"]["fsdp"] * one["mesh"]["tensor"] for one in found} == {8}
    assert {one["mesh"]["tensor"] for one in found} == {1, 2, 4} and len(found) > 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ([CONFIG, "--topology=v5e"], "--topology='v5e' is unknown; expected a chip"),
        ([CONFIG, "--topology=h100:8", "steps=3"], "'steps=3' is no change to the config"),
        ([CONFIG, "--topology=h100:8", "config.stepz=3"], "no such key"),
        (["--config=configs/sft.py", "--topology=h100:1"], "this config trains 'sft'"),
        ([CONFIG + ":mesh=cpu8", "--topology=h100:1"], "mesh .* needs 8 devices, but there are 1"),
    ],
)
def test_bad_input_is_one_line(line, said, capsys, monkeypatch):
    import re

    monkeypatch.setattr("corl_jax.planner.chips.open_slice", _fake)
    assert main(["plan", *line]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and re.search(said, err)


def test_the_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("corl_jax.planner.chips.open_slice", _fake)
    file = tmp_path / "plan.json"
    assert main(["plan", CONFIG + ":janus_pro_1b", "--topology=h100:8", "--json", str(file)]) == 0
    out, value = capsys.readouterr().out, json.loads(file.read_text())
    assert "By formula" in out and "fits:" in out
    assert value["fits"] and set(value["phases"]) == set(PHASES) and value["hbm_gib_per_chip"] == 79
    assert value["phases"]["update"]["bound_by"] in ("compute", "memory", "links")
    assert main(["plan", CONFIG + ":janus_pro_7b", "--topology=h100:1"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def _fake(name):
    """As ``open_slice`` for GPUs, on the devices that the tests have."""
    if not name.startswith("h100:"):
        return open_slice(name)
    count = int(name.partition(":")[2])
    return Slice(name, CHIPS["h100"], count, jax.devices()[:count], False)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="compiling for TPUs needs libtpu"
)
def test_a_tpu_slice_is_compiled_for(config):
    slice_ = open_slice("v5e:2x2")
    assert len(slice_.devices) == 4 and make_mesh({"fsdp": 4}, slice_.devices).size == 4
    spread = config | {"mesh": {"data": 1, "fsdp": 4, "tensor": 1}}
    found: Plan = make_plan(open_step(spread, slice_.devices), slice_)
    assert found.fits and found.decode.cache_copies == 0 and found.decode.bytes_over_minimum < 3
