"""Runs that train adapters alone: their update, a resumed run, the next run, and the export."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib

import jax
import numpy as np
import pytest
from helpers import metric_rows, train_and_stop

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import digest
from corl_jax.engine.checkpoints.handoff import load_params
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.optim import make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.models.lora import is_adapter, without_adapters
from corl_jax.porting.janus.folder import load_params as load_folder
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run import run
from corl_jax.stages.setup import Setup, build_setup
from corl_jax.stages.sft import SftStage
from corl_jax.stages.whole_config import optim_config

TASKS = ("image", "text")
RANK = {"lora.rank": 4}
ADAPTER_PARAMS = 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))
"""Parameters of adapters of rank 4 on two layers of width 32 with feed-forward width 64."""


@pytest.fixture(scope="module")
def step(take_step):
    """A first step with adapters."""
    return take_step(**RANK)


@dataclasses.dataclass(frozen=True)
class LoraRun:
    """Four steps with adapters.

    Attributes:
      config: of the run.
      workdir: of the run that never stopped.
      resumed: work directory of the same run, stopped after step 3 and resumed.
      setup: of ``config``.
      log: what the first run wrote to stderr.
    """

    config: dict
    workdir: object
    resumed: object
    setup: Setup
    log: str


@pytest.fixture(scope="module")
def lora_run(rl_config, small_world, tmp_path_factory):
    """A ``LoraRun``."""
    folder = tmp_path_factory.mktemp("lora")
    workdir, resumed = folder / "unbroken", folder / "resumed"
    config = rl_config(**RANK, **{"steps": 4, "hooks.save_every": 2})
    with small_world():
        with (folder / "log").open("w") as file, contextlib.redirect_stderr(file):
            run(config, workdir)

        # Stopped after step 3, of which nothing is saved.
        train_and_stop(config, resumed, 3)
        run(config, resumed)
        setup = build_setup(config)
    return LoraRun(config, workdir, resumed, setup, (folder / "log").read_text())


@pytest.fixture(scope="module")
def saved_params(lora_run):
    """All parameters of the last checkpoint, adapters apart from their kernels."""
    return load_params(lora_run.workdir, lora_run.setup.param_specs)


@pytest.fixture(scope="module")
def base_params(lora_run):
    """Parameters of the policy that the run started from."""
    return Policy.load(lora_run.config["init_from"], dtype="float32").params


@pytest.fixture(scope="module")
def merged_params(lora_run):
    """Parameters of the work directory as a policy: adapters added to their kernels."""
    return Policy.load(lora_run.workdir, dtype="float32").params


def test_stopped_and_resumed_equals_never_stopped(lora_run):
    rows = metric_rows(lora_run.workdir)
    assert metric_rows(lora_run.resumed) == rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    manifest, resumed_manifest = (
        read_manifest(workdir / "checkpoints" / "4")
        for workdir in (lora_run.workdir, lora_run.resumed)
    )
    assert manifest == resumed_manifest and manifest.params_digest is not None
    assert manifest.model["lora"] == {"rank": 4, "scale": 4.0}


def test_the_kl_starts_at_0_since_the_base_is_the_reference(lora_run, step):
    rows = metric_rows(lora_run.workdir)
    for task in TASKS:
        assert abs(rows[0][f"{task}/kl"]) < 1e-6 < 1e-4 < rows[-1][f"{task}/kl"]
        assert rows[0][f"{task}/kl_coefficient"] > 0
        # The sampler reads merged weights, the loss reads adapters.
        assert max(row[f"{task}/sampler_logp_diff"] for row in rows) < 1e-4

    stage = step.stage
    state = stage.init_state()
    assert stage.reference_params(state) is state.frozen and stage.fixed_reference == {}
    base = without_adapters(stage.setup.load_params())
    with sharding_context(stage.setup.sharder):
        expected = stage.rollout_sampler.log_probs(
            base, "text", step.prompts["text"], step.rollouts["text"]
        )
    np.testing.assert_array_equal(step.batches[0]["text"].ref_log_probs, expected)


def test_adapters_move_and_nothing_else(step):
    (state, _), initial = step.run(times=2), step.stage.init_state()
    assert digest(state.frozen) == digest(initial.frozen) and not any(map(is_adapter, state.frozen))
    assert len(state.trainable) == 14 and all(map(is_adapter, state.trainable))
    assert all(np.any(leaf != initial.trainable[path]) for path, leaf in state.trainable.items())

    # The optimizer has two moments of each adapter and of nothing else.
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in state.trainable.values()) == ADAPTER_PARAMS
    assert sum(leaf.size for leaf in moments) == 2 * ADAPTER_PARAMS

    before, after = (
        step.stage.rollout_sampler.log_probs(
            params, "text", step.prompts["text"], step.rollouts["text"]
        )
        for params in (initial.params, state.params)
    )
    assert float(np.abs(before - after).max()) > 1e-3
    assert step.stage.setup.lora.rank == 4


def test_log_and_inspect_count_the_adapters(lora_run, base_params, capsys):
    base_size = sum(leaf.size for leaf in base_params.values())
    total = base_size + ADAPTER_PARAMS
    assert f"training {ADAPTER_PARAMS:,} of {total:,} parameters" in lora_run.log
    assert main(["inspect", "--policy", str(lora_run.workdir)]) == 0
    output = capsys.readouterr().out
    assert f"parameters{base_size:>30,}" in output and f"adapters{14:>32,} arrays" in output


def test_the_exported_policy_computes_what_was_trained(
    lora_run, saved_params, base_params, merged_params, step, tmp_path
):
    """The merged weights of a folder against the adapters of the checkpoint, in float32."""
    command = ["export", "--policy", str(lora_run.workdir), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    exported = load_folder(tmp_path / "out", lora_run.setup.cfg)
    assert digest(exported) == digest(merged_params)
    changed = {path for path, leaf in exported.items() if np.any(leaf != base_params[path])}
    adapted = [path for path in saved_params if path.endswith("lora_a")]
    assert changed == {path.replace("lora_a", "kernel") for path in adapted}

    for task in TASKS:
        from_adapters, from_merged, from_base = (
            step.stage.rollout_sampler.log_probs(
                params, task, step.prompts[task], step.rollouts[task]
            )
            for params in (saved_params, exported, base_params)
        )
        np.testing.assert_allclose(from_adapters, from_merged, rtol=0, atol=1e-5)
        assert float(np.abs(from_adapters - from_base).max()) > 1e-3


def test_the_base_is_saved_unchanged(saved_params, base_params):
    assert without_adapters(saved_params).keys() == base_params.keys()
    for path, leaf in base_params.items():
        np.testing.assert_array_equal(saved_params[path], leaf, err_msg=path)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_next_run_starts_from_the_merged_policy(
    lora_run, merged_params, rl_config, small_world, rank
):
    """With new adapters, or without any."""
    with small_world():
        setup = build_setup(rl_config(**{"lora.rank": rank}, init_from=str(lora_run.workdir)))
        params = setup.load_params()
    assert without_adapters(params).keys() == merged_params.keys()
    assert bool(params.keys() - merged_params.keys()) == bool(rank)
    for path, leaf in params.items():
        if path.endswith("lora_b"):
            assert not np.any(leaf) and leaf.shape[-2] == rank
        elif not is_adapter(path):
            np.testing.assert_array_equal(leaf, merged_params[path])


def test_bfloat16_base_with_an_int8_sampler_one_step_off_policy(
    rl_config, small_world, base_params, tmp_path
):
    """All options of sampling at once; the base in half the memory, merged in float32."""
    config = rl_config(
        **RANK,
        **{
            "lora.base_dtype": "bfloat16",
            "rl.rollout.one_step_off_policy": True,
            "rl.rollout.weights_dtype": "int8",
            "rl.loss.importance_cap": 2.0,
            "steps": 3,
        },
    )
    with small_world():
        run(config, tmp_path / "run")
        setup = build_setup(config)
    rows = metric_rows(tmp_path / "run")
    saved = load_params(tmp_path / "run", setup.param_specs)
    assert all(0 < row["text/sampler_logp_diff"] < 0.5 for row in rows)
    assert rows[-1]["text/kl"] > 1e-4 and abs(rows[0]["text/kl"]) < 1e-6

    # The base is saved in bfloat16, rounded from what the run started from.
    for path, leaf in saved.items():
        if is_adapter(path):
            continue
        is_matrix = path.endswith(("kernel", "embed/embedding"))
        is_bfloat16 = is_matrix and not path.startswith("image_tokenizer/")
        assert leaf.dtype == ("bfloat16" if is_bfloat16 else "float32"), path
        np.testing.assert_array_equal(leaf, base_params[path].astype(leaf.dtype), err_msg=path)

    # Adapters are added in float32.
    policy = Policy.load(tmp_path / "run", dtype="float32")
    kernel = "language_model/layers/down_proj/kernel"
    base, a, b = (
        np.asarray(saved[kernel.replace("kernel", name)], np.float64)
        for name in ("kernel", "lora_a", "lora_b")
    )
    assert policy.params[kernel].dtype == "float32"
    np.testing.assert_allclose(policy.params[kernel], base + 4 * a @ b, atol=1e-6)


def test_two_devices_train_as_one(step, small_world):
    """The update of a step, its batch over two devices and the adapters with their kernels."""
    config = step.config | {"mesh": {"data": 1, "fsdp": 2, "tensor": 1}}
    with small_world(2):
        setup = build_setup(config)
        stage = RlStage(config, setup, step.optimizer)
        batch = setup.sharder.put_batch(jax.device_get(step.batches[0]))
        sharded_step = dataclasses.replace(step, stage=stage, batches=[batch])
        expected_state, (expected_metrics,) = step.run()
        state, (metrics,) = sharded_step.run()

    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-5)
    assert metrics["grad_norm"] > 1e-3
    for path, leaf in expected_state.trainable.items():
        np.testing.assert_allclose(state.trainable[path], leaf, rtol=0, atol=2e-5, err_msg=path)
    linear = "language_model/layers/up_proj/"
    assert state.trainable[linear + "lora_a"].addressable_shards[0].data.shape == (2, 16, 4)
    assert state.trainable[linear + "lora_b"].addressable_shards[0].data.shape == (2, 4, 64)


def test_old_log_probs_are_those_of_the_adapters(step, saved_params, small_world):
    """With several updates per step, so that the ratio is 1 in the first of them."""
    config = step.config | {"updates_per_step": 2}
    with small_world():
        stage = RlStage(config, step.stage.setup, step.optimizer)
        initial = stage.init_state()
        trainable = {path: saved_params[path] for path in initial.trainable}
        state = dataclasses.replace(initial, trainable=trainable)
        with sharding_context(stage.setup.sharder):
            batch, _ = next(stage.batches(state, step.raw, 0))
            expected = {}
            for task, part in batch.items():
                rollout = dataclasses.replace(
                    step.rollouts[task], tokens=part.tokens, mask=part.mask
                )
                expected[task] = stage.rollout_sampler.log_probs(
                    state.params, task, step.prompts[task], rollout
                )
    for task, part in batch.items():
        np.testing.assert_array_equal(part.old_log_probs, expected[task])
        assert np.any(part.old_log_probs != part.ref_log_probs)


def test_supervised_adapters(small_config, small_world, dot_policy_folder):
    """Traced, not run: adapters alone have gradients."""
    config = small_config("sft", **RANK, init_from=str(dot_policy_folder))
    with small_world():
        stage = SftStage(config, build_setup(config), make_optimizer(optim_config(config)))
        state = stage.init_state()
        batch, _ = next(stage.batches(state, next(stage.data_iterator()), 0))
        update = make_update(stage.loss, stage.update_algo_state, stage.optimizer, 1, state)
        next_state, metrics = update.trace(state.with_frozen({}), state.frozen, batch).out_info
    assert len(next_state.trainable) == 14 and all(map(is_adapter, next_state.trainable))
    assert "text/nll" in metrics


def test_the_argument_of_a_config():
    get_config = importlib.import_module("configs.unified").get_config
    assert get_config("tiny,lora=4").lora.rank == 4 and get_config().lora.rank == 0
    with pytest.raises(UserError, match="lora must be the rank of the adapters.*; got 'much'"):
        get_config("tiny,lora=much")
