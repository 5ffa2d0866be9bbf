"""Runs whose adapters alone are trained: two steps end to end, resumed, handed on, exported."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import digest
from corl_jax.engine.handoff import load_params
from corl_jax.engine.manifest import read_manifest
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.models.lora import is_adapter, without_adapters
from corl_jax.porting.janus.folder import load_params as load_folder
from corl_jax.stages.rl.stage import RlStage
from corl_jax.engine.loop import train
from corl_jax.stages.run import optim_config, prepare, run
from corl_jax.stages.setup import build_setup
from corl_jax.stages.sft import SftStage

RANK = {"lora.rank": 4}
NUMBER = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
"""Parameters of adapters of rank 4 on two layers of width 32 with feed-forward width 64."""


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """Little effort spent on machine code."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def step(take_step):
    """A first step with adapters."""
    return take_step(**RANK)


@pytest.fixture(scope="module")
def trained(rl_config, small_world, tmp_path_factory):
    """Config, work directory of four steps, that of the same run stopped after the third and resumed, its parts; what
    the first said lies in ``said`` beside them."""
    home, config = (
        tmp_path_factory.mktemp("lora"),
        rl_config(**RANK, steps=4, **{"hooks.save_every": 2}),
    )
    with small_world():
        with (home / "said").open("w") as said, contextlib.redirect_stderr(said):
            run(config, home / "whole")
        going = train(prepare(config, home / "parts"))
        assert [next(going).step for _ in range(3)] == [1, 2, 3]
        going.close()  # after step 3, of which nothing is saved
        run(config, home / "parts")
        parts = build_setup(config)
    return config, home / "whole", home / "parts", parts


@pytest.fixture(scope="module")
def saved(trained):
    """All parameters of the last checkpoint as they are saved."""
    return load_params(trained[1], trained[3].structs)


@pytest.fixture(scope="module")
def base(trained):
    """Parameters of the policy that was handed off."""
    return Policy.load(trained[0]["init_from"], dtype="float32").params


@pytest.fixture(scope="module")
def merged(trained):
    """Parameters of the work directory as they are used."""
    return Policy.load(trained[1], dtype="float32").params


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines
    ]


def test_stopped_and_resumed_equals_never_stopped(trained):
    _, whole, parts, _ = trained
    assert rows(parts) == rows(whole) and [row["step"] for row in rows(whole)] == [1, 2, 3, 4]
    last = [read_manifest(folder / "checkpoints" / "4") for folder in (whole, parts)]
    assert last[0] == last[1] and last[0].params_digest is not None
    assert last[0].model["lora"] == {"rank": 4, "scale": 4.0}


def test_the_kl_begins_at_0_and_the_reference_is_the_base(trained, step):
    said = rows(trained[1])
    for task in ("image", "text"):
        assert abs(said[0][f"{task}/kl"]) < 1e-6 < 1e-4 < said[-1][f"{task}/kl"]
        assert said[0][f"{task}/kl_coefficient"] > 0
        assert (
            max(row[f"{task}/sampler_logp_diff"] for row in said) < 1e-4
        )  # the sampler's merged weights, the adapters' loss
    stage, raw = step.stage, step.raw
    state = stage.init_state()
    assert stage.reference_in(state) is state.frozen and stage.fixed_reference == {}
    base, batch = without_adapters(stage.setup.load_params()), step.batches[0]["text"]
    with sharding_context(stage.setup.sharder):
        wanted = stage.rollout_sampler.log_probs(base, "text", raw["text"], step.rollouts["text"])
    np.testing.assert_array_equal(batch.ref_log_probs, wanted)


def test_adapters_move_and_nothing_else(step):
    (state, _), fresh = step.run(times=2), step.stage.init_state()
    assert digest(state.frozen) == digest(fresh.frozen) and not any(map(is_adapter, state.frozen))
    assert len(state.trainable) == 14 and all(map(is_adapter, state.trainable))
    assert all(np.any(leaf != fresh.trainable[path]) for path, leaf in state.trainable.items())
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert (
        sum(leaf.size for leaf in moments)
        == 2 * sum(leaf.size for leaf in state.trainable.values())
        == 2 * NUMBER
    )
    parts, raw = step.stage.setup, step.raw
    before, after = (
        step.stage.rollout_sampler.log_probs(params, "text", raw["text"], step.rollouts["text"])
        for params in (fresh.params, state.params)
    )
    assert float(np.abs(before - after).max()) > 1e-3 and parts.lora.rank == 4


def test_a_run_says_how_much_it_trains(trained, base, capsys):
    whole = sum(leaf.size for leaf in base.values())
    said = (trained[1].parent / "said").read_text()
    assert f"training {NUMBER:,} of {whole + NUMBER:,} parameters" in said
    assert main(["inspect", "--policy", str(trained[1])]) == 0
    out = capsys.readouterr().out
    assert f"parameters{whole:>30,}" in out and f"adapters{14:>32,} arrays" in out


def test_what_is_exported_computes_what_was_trained(trained, saved, base, merged, step, tmp_path):
    """The merged weights of a folder against the adapters of the checkpoint, in float32."""
    assert main(["export", "--policy", str(trained[1]), "--out", str(tmp_path / "out")]) == 0
    exported = load_folder(tmp_path / "out", trained[3].cfg)
    assert digest(exported) == digest(merged)
    moved = {path for path, leaf in exported.items() if np.any(leaf != base[path])}
    assert moved == {path.replace("lora_a", "kernel") for path in saved if path.endswith("lora_a")}
    rollouts = step.stage.rollout_sampler
    for task in ("image", "text"):
        adapters, plain, untouched = (
            rollouts.log_probs(params, task, step.raw[task], step.rollouts[task])
            for params in (saved, exported, base)
        )
        np.testing.assert_allclose(adapters, plain, rtol=0, atol=1e-5)
        assert float(np.abs(adapters - untouched).max()) > 1e-3


def test_the_base_is_saved_as_it_was_handed_off(saved, base):
    assert without_adapters(saved).keys() == base.keys()
    for path, leaf in base.items():
        np.testing.assert_array_equal(saved[path], leaf, err_msg=path)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_next_run_starts_from_the_merged_policy(trained, merged, rl_config, small_world, rank):
    """With adapters of its own, or none."""
    with small_world():
        parts = build_setup(rl_config(**{"lora.rank": rank}, init_from=str(trained[1])))
        params = parts.load_params()
    assert without_adapters(params).keys() == merged.keys() and bool(params.keys() - merged.keys()) == bool(
        rank
    )
    for path, leaf in params.items():
        if path.endswith("lora_b"):
            assert not np.any(leaf) and leaf.shape[-2] == rank
        elif not is_adapter(path):
            np.testing.assert_array_equal(leaf, merged[path])


def test_narrow_base_lighter_and_stale_rollouts(rl_config, small_world, base, tmp_path):
    """All that changes what is sampled from, at once; the base in half the memory, merged in float32 when read."""
    changes = {"rl.rollout.one_step_off_policy": True, "rl.loss.importance_cap": 2.0, "rl.rollout.weights_dtype": "int8"}
    config = rl_config(**RANK, **changes, **{"lora.base_dtype": "bfloat16"}, steps=3)
    with small_world():
        run(config, tmp_path / "run")
        parts = build_setup(config)
    said, saved = rows(tmp_path / "run"), load_params(tmp_path / "run", parts.param_specs)
    assert all(0 < row["text/sampler_logp_diff"] < 0.5 for row in said) and said[-1]["text/kl"] > 1e-4
    assert abs(said[0]["text/kl"]) < 1e-6
    policy = Policy.load(tmp_path / "run", dtype="float32")
    for path, leaf in saved.items():
        if not is_adapter(path):
            narrow = path.endswith(("kernel", "embed/embedding")) and not path.startswith(
                "image_tokenizer/"
            )
            assert leaf.dtype == ("bfloat16" if narrow else "float32"), path
            np.testing.assert_array_equal(leaf, base[path].astype(leaf.dtype), err_msg=path)
    kernel = "language_model/layers/down_proj/kernel"
    a, b = (
        np.asarray(saved[kernel.replace("kernel", name)], np.float64)
        for name in ("lora_a", "lora_b")
    )
    assert policy.params[kernel].dtype == "float32"
    np.testing.assert_allclose(
        policy.params[kernel], np.asarray(saved[kernel], np.float64) + 4 * a @ b, atol=1e-6
    )


def test_two_devices_train_as_one(step, small_world):
    """The update of a step, its batch spread over two devices and the adapters with their kernels."""
    config = step.config | {"mesh": {"data": 1, "fsdp": 2, "tensor": 1}}
    with small_world(2):
        parts = build_setup(config)
        stage = RlStage(config, parts, step.optimizer)
        batch = parts.sharder.put_batch(jax.device_get(step.batches[0]))
        spread = dataclasses.replace(step, stage=stage, batches=[batch])
        (one, (said,)), (two, (other,)) = step.run(), spread.run()
    assert said == pytest.approx(other, rel=1e-4, abs=1e-5) and said["grad_norm"] > 1e-3
    for path, leaf in one.trainable.items():
        np.testing.assert_allclose(leaf, two.trainable[path], rtol=0, atol=2e-5, err_msg=path)
    home = "language_model/layers/up_proj/"
    assert two.trainable[home + "lora_a"].addressable_shards[0].data.shape == (2, 16, 4)
    assert two.trainable[home + "lora_b"].addressable_shards[0].data.shape == (2, 4, 64)


def test_old_log_probs_are_those_of_the_adapters(step, trained, saved, small_world):
    """With several updates per step, so that the first of them has a ratio of one."""
    config = step.config | {"updates_per_step": 2}
    with small_world():
        stage = RlStage(config, step.stage.setup, step.optimizer)
        fresh = stage.init_state()
        state = dataclasses.replace(
            fresh, trainable={path: saved[path] for path in fresh.trainable}
        )
        with sharding_context(stage.setup.sharder):
            batch, _ = next(stage.batches(state, step.raw, 0))
            again = {}
            for task, part in batch.items():
                rollout = dataclasses.replace(
                    step.rollouts[task], tokens=part.tokens, mask=part.mask
                )
                again[task] = stage.rollout_sampler.log_probs(state.params, task, step.raw[task], rollout)
    for task, part in batch.items():
        np.testing.assert_array_equal(part.old_log_probs, again[task])
        assert np.any(part.old_log_probs != part.ref_log_probs)


def test_supervised_adapters(small_config, small_world, dot_policy_folder):
    """Traced, not run: adapters alone have gradients."""
    config = small_config("sft", **RANK, init_from=str(dot_policy_folder))
    with small_world():
        stage = SftStage(config, build_setup(config), make_optimizer(optim_config(config)))
        state = stage.init_state()
        batch, _ = next(stage.batches(state, next(stage.data_iterator()), 0))
        update = make_update(stage.loss, stage.update_algo_state, stage.optimizer)
        moved, metrics = update.trace(state, batch).out_info
    assert (
        len(moved.trainable) == 14
        and all(map(is_adapter, moved.trainable))
        and "text/nll" in metrics
    )


def test_the_argument_of_a_config(small_config):
    small_config("unified")  # makes configs importable
    get_config = importlib.import_module("configs.unified").get_config
    assert get_config("tiny,lora=4").lora.rank == 4 and get_config().lora.rank == 0
    with pytest.raises(UserError, match="lora='much' is no rank"):
        get_config("tiny,lora=much")
