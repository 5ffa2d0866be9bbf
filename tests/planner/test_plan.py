"""Plans: programs are the stage's, sizes are those of real arrays, the verdict follows memory."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re

import jax
import numpy as np
import pytest

from corl_jax.commands.cli import main
from corl_jax.core.sharding import make_mesh
from corl_jax.engine.optim import make_optimizer
from corl_jax.planner import memory
from corl_jax.planner.advice import advise
from corl_jax.planner.calls import requested_gib
from corl_jax.planner.chips import CHIPS, Slice, open_slice
from corl_jax.planner.programs import PHASES, open_step
from corl_jax.planner.reward_programs import assumed_size_notes
from corl_jax.planner.roofline import compile_plan
from corl_jax.planner.search import candidate_configs
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.collection import SPECS
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.setup import build_setup
from corl_jax.stages.whole_config import optim_config

CONFIG = "--config=configs/unified.py"
PHASES_WITHOUT_REWARDS = ("rollout_image", "rollout_text", "log_probs", "update")


@pytest.fixture(scope="module")
def config(small_config):
    """The embedded world on two devices, in float32 as on a CPU."""
    changes = {"mesh.data": 1, "mesh.fsdp": 2, "model.compute_dtype": "float32", "model.unroll": 1}
    return small_config("unified", steps=1, **changes)


@pytest.fixture(scope="module")
def step(config):
    return open_step(config, jax.devices()[:2])


def cpu_slice():
    """Two CPU devices of this machine, as a v5e slice that can be compiled for."""
    return Slice("v5e:1x2", CHIPS["v5e"], 2, jax.devices()[:2], usable_gib=16)


def open_test_slice(name):
    """``open_slice``, but with the devices that the tests have where it is for GPUs."""
    if not name.startswith("h100:"):
        return open_slice(name)
    count = int(name.partition(":")[2])
    return Slice(name, CHIPS["h100"], count, jax.devices()[:count], usable_gib=60)


@pytest.fixture(scope="module")
def plan(step):
    return compile_plan(step, cpu_slice())


def first_device_gib(tree):
    """GiB of the arrays of a tree on the first device."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / 2**30


def test_every_phase_is_compiled_and_adds_up(plan):
    assert set(plan.phases) == set(PHASES) and plan.phases["rewards"].peak_gib == 0
    parts = plan.memory_parts
    for name in PHASES_WITHOUT_REWARDS:
        phase = plan.phases[name]
        assert phase.flops > 0 and phase.bytes > 0 and phase.compile_seconds > 0 and phase.bound_by
        assert phase.peak_gib >= parts["parameters"] + parts["moments"] + parts["reference"]
    assert plan.fits and 0 < plan.peak_gib < plan.hbm_gib and plan.images_per_second_per_chip > 0
    assert plan.phases["update"].collectives["all-gather"] > 0
    assert plan.update_collectives_over_minimum > 0
    assert plan.decode.cache_copies == 0 and plan.decode.bytes_over_minimum > 0.9


def test_sizes_are_those_of_arrays(step, config, small_world):
    with small_world(2):
        setup, optimizer = build_setup(config), make_optimizer(optim_config(config))
        state = RlStage(config, setup, optimizer).init_state()
    parts = memory.memory_parts(step)
    assert parts["parameters"] == pytest.approx(first_device_gib(state.params), rel=1e-6)
    assert parts["moments"] == pytest.approx(first_device_gib(state.opt_state), rel=1e-6)

    # Two tasks pass through the layers. The text embedding table is not gathered, and half of every
    # other parameter is on the other device.
    counts = {path: leaf.size for path, leaf in state.trainable.items()}
    layers = sum(size for path, size in counts.items() if path.startswith("language_model/layers/"))
    rest = sum(counts.values()) - layers - counts["language_model/embed/embedding"]
    assert memory.min_update_link_bytes(step) == 4 * 3 * (2 * layers + rest) / 2

    rollout_params = setup.rollout_params(state.params)
    copies = {path: leaf for path, leaf in rollout_params.items() if leaf is not state.params[path]}
    assert copies
    assert parts["rollout_parameters"] == pytest.approx(first_device_gib(copies), rel=1e-6)


def test_a_reference_that_follows_is_part_of_the_state(config):
    rl = config["rl"] | {"reference": config["rl"]["reference"] | {"update_every": 3}}
    step = open_step(config | {"rl": rl, "updates_per_step": 2}, jax.devices()[:2])
    reference, trainable = step.state.reference, step.state.trainable
    assert reference.params == trainable and reference.every == 6
    assert memory.memory_parts(step)["reference"] == memory.gib_per_chip(trainable) > 0


def test_adapters_have_moments_of_their_own_size_and_no_copy_for_the_reference(config, small_world):
    """Sizes with adapters over a base in bfloat16 are those of arrays; the programs trace."""
    changed = config | {"lora": config["lora"] | {"rank": 4, "base_dtype": "bfloat16"}}
    step = open_step(changed, jax.devices()[:2])
    with small_world(2):
        setup = build_setup(changed)
        state = RlStage(changed, setup, make_optimizer(optim_config(changed))).init_state()
    parts = memory.memory_parts(step)
    moments_gib = first_device_gib(state.opt_state)
    assert parts["parameters"] == pytest.approx(first_device_gib(state.params), rel=1e-6)
    assert parts["moments"] == pytest.approx(moments_gib, rel=1e-6) and parts["reference"] == 0
    assert parts["moments"] == pytest.approx(2 * first_device_gib(state.trainable), rel=1e-2)

    # Adapters are merged into kernels for sampling, so these are never the arrays that are trained.
    rollout_params = setup.rollout_params(state.params)
    copies = {
        path: leaf for path, leaf in rollout_params.items() if leaf is not state.params.get(path)
    }
    assert parts["rollout_parameters"] == pytest.approx(first_device_gib(copies), rel=1e-6)
    kernels = [
        path
        for path in rollout_params
        if path.startswith("language_model/layers/") and path.endswith("kernel")
    ]
    assert len(kernels) == 7 and copies.keys() >= set(kernels)

    log_probs, update = (step.trace(step.phases()[name][0]) for name in ("log_probs", "update"))
    arguments = jax.tree_util.tree_leaves_with_path(log_probs.args_info)
    assert not any("lora" in str(path) for path, _ in arguments)
    assert update.out_info[0].trainable.keys() == state.trainable.keys()

    # Two tasks, and half of every parameter is on the other device.
    adapters = sum(leaf.size for leaf in state.trainable.values())
    gathered_size = sum(state.params[path].size for path in kernels)
    assert memory.min_update_link_bytes(step) == 2 * 4 * (3 * adapters + 2 * gathered_size) / 2


def test_reward_models_are_counted(step, config):
    """The papers' rewards in the same step, with sizes of ``tiny`` and with those of the hub."""
    models = dict.fromkeys(("captioner", "bert", "lpips"), "tiny")
    choices = {"captioner": "blip", "similarity": "bertscore", "image_distance": "lpips"}
    options = config["rewards"]["options"] | choices | {"models": models}
    image_rewards = {"cycle_both": 1.0, "matching": 1.0, "self_answer": 1.0}
    rewards = config["rewards"] | {"image": image_rewards, "options": options}
    reward_step = open_step(config | {"rewards": rewards}, jax.devices()[:2])
    assert sorted(reward_step.reward_models) == ["bert", "captioner", "lpips"]
    assert memory.memory_parts(step)["reward_models"] == 0

    sharder = reward_step.setup.sharder
    loaded = [
        load_reward_model(SPECS[name], "tiny", sharder).params for name in reward_step.reward_models
    ]
    reward_models_gib = memory.memory_parts(reward_step)["reward_models"]
    assert reward_models_gib == pytest.approx(first_device_gib(loaded), rel=1e-6)

    # A step has fewer samples than a call has rows.
    calls = reward_step.phases()["rewards"]
    assert [call.times for call in calls] == [1] * 5
    plan = compile_plan(reward_step, cpu_slice())
    phase = plan.phases["rewards"]
    assert phase.flops > 0 and phase.peak_gib > plan.memory_parts["reward_models"] > 0
    assert not advise(plan, reward_step)

    sources = {"captioner": "some/captioner", "bert": SPECS["bert"].hub_id, "lpips": ""}
    hub_rewards = rewards | {"options": options | {"models": sources}}
    hub_step = open_step(config | {"rewards": hub_rewards}, jax.devices()[:2])
    counts = {
        name: sum(np.prod(spec.shape) for spec in model.params.values())
        for name, model in hub_step.reward_models.items()
    }
    assert counts == {"bert": 108_891_648, "captioner": 223_971_644, "lpips": 14_716_160}
    notes = assumed_size_notes(hub_step.stage)
    assert [note.split(" is not a folder")[0] for note in notes] == [
        "config.rewards.options.models.captioner='some/captioner'",
        "config.rewards.options.models.lpips=''",
    ]


def test_a_plan_that_does_not_fit_names_a_larger_slice_or_another_chip(plan, step):
    small = dataclasses.replace(plan, slice_name="v5e:2x2", usable_gib=plan.peak_gib * 0.6)
    advice = advise(small, step)
    assert not small.fits and any("a larger slice: --topology=v5e:" in text for text in advice)
    far_too_small = dataclasses.replace(plan, slice_name="v5e:2x2", usable_gib=plan.peak_gib / 100)
    assert any("chips with more memory" in text for text in advise(far_too_small, step))


def test_a_phase_for_which_the_compiler_runs_out_of_memory_does_not_fit(plan):
    failed = dataclasses.replace(plan.phases["update"], error="RESOURCE_EXHAUSTED")
    assert not dataclasses.replace(plan, phases=plan.phases | {"update": failed}).fits


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "total memory required for HLO temporaries (128.25G) exceeds available HBM (15.75G).",
            128.25,
        ),
        ("Ran out of memory in memory space hbm. Used 16896.00M of 15.75G hbm.", 16.5),
    ],
)
def test_the_requested_memory_comes_from_the_error_message(message, gib):
    assert requested_gib("RESOURCE_EXHAUSTED: " + message) == gib
    with pytest.raises(ValueError, match="out-of-memory error must name a size"):
        requested_gib("RESOURCE_EXHAUSTED")


def test_a_pool_that_is_too_small_is_told_from_a_gpu_that_is(plan, step):
    """Memory is held against what JAX takes; the variable that raises it is the first advice."""
    peak = plan.peak_gib
    pool = dataclasses.replace(plan, slice_name="h100:1", usable_gib=peak * 0.9, hbm_gib=peak * 1.2)
    assert not pool.fits
    assert "XLA_CLIENT_MEM_FRACTION=0.95" in advise(pool, step)[0]
    assert "and fits" in advise(pool, step)[0]
    gpu = dataclasses.replace(pool, usable_gib=peak * 0.6, hbm_gib=peak * 0.8)
    assert "still too little" in advise(gpu, step)[0]
    whole = dataclasses.replace(pool, usable_gib=pool.hbm_gib * 0.95)
    assert whole.fits and not any("XLA_CLIENT" in text for text in advise(whole, step))


def test_candidates_use_all_chips(config):
    meshes = [candidate["mesh"] for candidate in candidate_configs(config, 8)]
    assert {mesh["fsdp"] * mesh["tensor"] for mesh in meshes} == {8}
    assert {mesh["tensor"] for mesh in meshes} == {1, 2, 4} and len(meshes) > 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([CONFIG, "--topology=v5e"], r"--topology must be a chip .* and a shape; got 'v5e'"),
        ([CONFIG, "--topology=h100:8", "steps=3"], r"must be config.KEY=VALUE; got 'steps=3'"),
        ([CONFIG, "--topology=h100:8", "config.stepz=3"], "no such key"),
        ([CONFIG, "--topology=h100:8", "--phases=updat"], "--phases must be some of .*'updat'"),
        ([CONFIG, "--topology=a100:16"], "at most 8 GPUs in a node, as in a100:8, or a100:2x8"),
        ([CONFIG, "--topology=l4:0"], "at most 8 GPUs in a node"),
        (["--config=configs/sft.py", "--topology=h100:1"], "config.stage must be 'rl'.* got 'sft'"),
        ([CONFIG + ":mesh=cpu8", "--topology=h100:1"], "mesh .* needs 8 devices, but there are 1"),
    ],
)
def test_bad_input_is_one_line(args, message, capsys, monkeypatch):
    monkeypatch.setattr("corl_jax.planner.chips.open_slice", open_test_slice)
    assert main(["plan", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and re.search(message, err)


def test_the_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    """One phase, on CPU devices under the name of GPUs."""
    monkeypatch.setattr("corl_jax.planner.chips.open_slice", open_test_slice)
    path, folder = tmp_path / "plan.json", tmp_path / "hlo"
    changes = ["config.model.compute_dtype=float32", "config.rl.rollout.text_prompts=2"]
    flags = ["--phases=rollout_text", "--json", str(path), "--hlo", str(folder)]
    assert main(["plan", CONFIG, "--topology=h100:2", *flags, *changes]) == 0
    out, values = capsys.readouterr().out, json.loads(path.read_text())
    assert "JAX takes 60.0 GiB of them" in out and "fits:" in out and "rollout_text" in out
    assert values["fits"] and values["usable_gib_per_chip"] == 60
    assert values["hbm_gib_per_chip"] == pytest.approx(79.1, abs=0.01)
    assert set(values["phases"]) == set(PHASES) and values["phases"]["update"]["flops"] == 0
    assert values["phases"]["rollout_text"]["bound_by"] in ("compute", "memory", "links")
    assert (folder / "rollout_text_1.txt").read_text().startswith("HloModule")
    assert "turns" in (folder / "rollout_text_1_loops.txt").read_text()


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="compiling for TPUs needs libtpu"
)
@pytest.mark.parametrize(("name", "fsdp"), [("v5e:1x1", 1), ("v5e:2x2", 4)])
def test_a_tpu_slice_is_compiled_for(config, name, fsdp):
    slice_ = open_slice(name)
    assert len(slice_.devices) == fsdp
    assert make_mesh({"fsdp": fsdp}, slice_.devices).size == fsdp
    sharded = config | {"mesh": {"data": 1, "fsdp": fsdp, "tensor": 1}}
    plan = compile_plan(open_step(sharded, slice_.devices), slice_)
    assert plan.fits and plan.decode.cache_copies == 0 and plan.decode.bytes_over_minimum < 3


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins.xla_cuda13") is None
    if importlib.util.find_spec("jax_plugins")
    else True,
    reason="compiling for GPUs needs JAX's plug-in of CUDA",
)
def test_gpus_of_two_nodes_are_compiled_for(config):
    """A rollout and an update of four GPUs, two in each of two nodes, one process for each node."""
    slice_ = open_slice("a100:2x2")
    assert [device.process_index for device in slice_.devices] == [0, 0, 1, 1]
    assert slice_.chip.link_gb_s == 200 < CHIPS["a100"].link_gb_s
    sharded = config | {"mesh": {"data": 1, "fsdp": 4, "tensor": 1}}
    step = open_step(sharded, slice_.devices)
    plan = compile_plan(step, slice_, phase_names=("rollout_image", "update"))
    assert plan.fits and plan.decode.cache_copies == 0 and plan.decode.bytes_over_minimum > 0.9
    assert plan.phases["update"].collectives["all-gather"] > 0
