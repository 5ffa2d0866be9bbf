"""A killed pipeline goes on at the right stage and ends like one that was not killed.

All stages train question answering alone and have one KL coefficient, so that they share programs.
"""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.handoff import saved_manifest
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.pipelines import results
from corl_jax.pipelines.run_pipeline import run_pipeline
from corl_jax.rewards.base import rewards
from corl_jax.stages.config import EvalsConfig

STAGES = ("unified", "refined_mc", "refined_oe")
SMALL = {
    "steps": 2,
    "hooks.save_every": 1,
    "hooks.sample_every": 0,
    "hooks.probe_every": 0,
    "trackers.every": 0,
    "rl.rollout.image_prompts": 0,
    "rl.rollout.text_prompts": 4,
    "rl.rollout.group_size": 2,
    "rl.rollout.completion_length": 4,
    "optim.learning_rate": 1e-2,
    "optim.warmup_ratio": 0.0,
}


class Killed(BaseException):
    """Stops a run as suddenly as SIGKILL, since nothing catches it."""


def redness(completions, context):
    """Mean of the red channel, which differs from image to image."""
    return np.array([completion.pixels[..., 0].mean() / 255 for completion in completions])


def letters(completions, context):
    """Length of the text, which differs from answer to answer."""
    return np.array([len(completion.text) / 10 for completion in completions])


@pytest.fixture(scope="module", autouse=True)
def simple_rewards():
    """Rewards that tell the samples of an untrained policy apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rewards._entries, "redness", redness)
        patch.setitem(rewards._entries, "letters", letters)
        yield


@pytest.fixture(scope="module")
def config(small_config, dot_policy_folder):
    small_config("unified")  # makes configs importable
    config = importlib.import_module("configs.corl").get_config()
    del config.train["refined_t2i"]
    config.order = (*STAGES, "merged")
    for name in STAGES:
        config.train[name].update_from_flattened_dict(SMALL)
        config.train[name].kl = config.train.refined_mc.kl.copy_and_resolve_references()
    config.train.unified.init_from = str(dot_policy_folder)
    config.evals.num_records = 2

    values = json.loads(config.to_json_best_effort())
    for name in STAGES:
        tables = {"image": {"redness": 1.0}, "text": {"letters": 1.0}}
        values["train"][name]["rewards"] |= tables
    return values


@pytest.fixture
def kill_at(monkeypatch):
    """A function that makes a given call of the reward ``letters`` kill the run.

    It returns a function that restores the reward.
    """

    def arm(call):
        calls = []

        def fatal(completions, context):
            calls.append(1)
            if len(calls) == call:
                raise Killed
            return letters(completions, context)

        monkeypatch.setitem(rewards._entries, "letters", fatal)
        return lambda: monkeypatch.setitem(rewards._entries, "letters", letters)

    return arm


@pytest.fixture
def evaluated(monkeypatch):
    """Names of the policies that are evaluated, in order; the metrics are made up.

    A name ``dies at NAME`` in the list kills the run at the evaluation of NAME.
    """
    names = []

    def evaluate(policy, records, guidance_scales, sampling, *, label):
        if f"dies at {label}" in names:
            raise Killed
        names.append(label)
        return {
            name: {"value": 0.5, "stderr": 0.01, "n": 2}
            for name in ("t2i_strict@w=2", "qa_greedy_mc")
        }

    monkeypatch.setattr(results, "evaluate", evaluate)
    return names


@pytest.fixture(scope="module")
def finished(config, small_world, tmp_path_factory):
    """Work directory of a pipeline that was never stopped."""
    workdir = tmp_path_factory.mktemp("pipeline") / "finished"
    with small_world(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "evaluate", lambda *args, **kwargs: {})
        run_pipeline(config, workdir)
    return workdir


def test_stages_start_from_the_policies_of_earlier_stages(finished):
    folders = sorted(path.name for path in finished.iterdir() if path.is_dir())
    assert folders == sorted((*STAGES, "merged"))
    inputs = json.loads((finished / "pipeline.json").read_text())
    unified_id = f"step 2 {saved_manifest(finished / 'unified').params_digest}"
    assert inputs["unified"] == {"from": {}}
    assert [inputs[name]["from"] for name in STAGES[1:]] == [{"unified": unified_id}] * 2
    assert list(inputs["merged"]["from"]) == ["unified", "refined_mc", "refined_oe"]
    digests = {saved_manifest(finished / name).params_digest for name in STAGES}
    assert len(digests) == 3 and (finished / "merged" / "model.safetensors").is_file()


def test_a_killed_pipeline_goes_on_at_the_right_stage(
    config, finished, kill_at, evaluated, small_world, tmp_path, capsys
):
    workdir = tmp_path / "interrupted"
    restore = kill_at(call=4)  # in the second step of refined_mc
    with small_world():
        with pytest.raises(Killed):
            run_pipeline(config, workdir)
        assert not (workdir / "refined_oe").exists() and not evaluated
        modified = (workdir / "unified" / "metrics.jsonl").stat().st_mtime_ns

        # Killed for the second time, in the evaluation.
        restore()
        evaluated.append("dies at refined_mc")
        capsys.readouterr()
        with pytest.raises(Killed):
            run_pipeline(config, workdir)
        assert capsys.readouterr().out.splitlines() == [
            "stage 1 of 4: unified is finished",
            "stage 2 of 4: refined_mc, from unified: step 1 of 2",
            "stage 3 of 4: refined_oe, from unified: step 0 of 2",
            "stage 4 of 4: merged, merging unified, refined_mc, refined_oe",
        ]
        assert evaluated[1:] == ["start", "unified"]

        evaluated.clear()
        run_pipeline(config, workdir)
    assert evaluated == ["refined_mc", "refined_oe", "merged"]
    assert (workdir / "unified" / "metrics.jsonl").stat().st_mtime_ns == modified

    # Bit for bit the policies of the pipeline that was never stopped.
    expected, digests = (
        [read_manifest(folder / name / "checkpoints/2").params_digest for name in STAGES]
        for folder in (finished, workdir)
    )
    assert expected == digests and None not in expected
    expected, merged = (
        (folder / "merged" / "model.safetensors").read_bytes() for folder in (finished, workdir)
    )
    assert expected == merged

    table = (workdir / "results.md").read_text()
    assert "| policy | `t2i_strict@w=2` |" in table and "| merged | 50.0 ± 1.0 |" in table
    policies = json.loads((workdir / "results.json").read_text())["policies"]
    assert list(policies) == ["start", *STAGES, "merged"]
    assert policies["merged"]["evals"] == {
        "n": 2,
        "guidances": [1.5, 2.0],
        "seed": 0,
        "batch": 64,
    }


def test_a_finished_pipeline_does_nothing_again(config, finished, evaluated, small_world, capsys):
    modified = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with small_world():
        run_pipeline(config, finished)
    assert evaluated == [] and {path: path.stat().st_mtime_ns for path in modified} == modified
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"stage {i} of 4: {name} is finished" for i, name in enumerate((*STAGES, "merged"), 1)
    ]


def changed(config, **values):
    """The config with dotted keys (``__`` for dots) set."""
    config = json.loads(json.dumps(config))
    for key, value in values.items():
        *path, last = key.split("__")
        block = config
        for name in path:
            block = block[name]
        block[last] = value
    return config


def test_a_stage_made_from_another_policy_is_refused(config, finished, evaluated, small_world):
    """With another merge, or with a longer first stage, what was made before does not count."""
    with small_world():
        message = "merged was made from another policy or in another way than now"
        with pytest.raises(UserError, match=message):
            run_pipeline(changed(config, merge__merged__lam=1.0), finished)
        with pytest.raises(UserError, match="seed was 0 and is now 1"):
            run_pipeline(changed(config, train__unified__seed=1), finished)
        message = "refined_mc was made from another policy .* Delete that folder"
        with pytest.raises(UserError, match=message):
            run_pipeline(changed(config, train__unified__steps=3), finished)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"order": ["refined_mc", "unified", "refined_oe", "merged"]},
            "'refined_mc' starts from @unified. Expected one of tiny, a folder",
        ),
        ({"order": ["unified", "refined_mc", "refined_oe"]}, "differs in 'merged'"),
        ({"order": ["unified"] * 2}, "must name every stage once; got 'unified' twice"),
        (
            {"train__refined_oe__rl__rollout__group_size": 1},
            "config.train.refined_oe: config.rl.rollout.group_size must be a whole number of at least 2; ",
        ),
        (
            {"train__refined_oe__stage": "dream"},
            "config.train.refined_oe: config.stage must be one of .*; got 'dream'",
        ),
        (
            {"merge__merged__method": "mean"},
            "config.merge.merged.method must be one of gaussian, linear; got 'mean'",
        ),
        (
            {"merge__merged__method": "linear", "merge__merged__weights": [1.0, float("nan")]},
            r"config.merge.merged.weights\[1\] must be a finite number; got nan",
        ),
        ({"merge__merged__experts": []}, "config.merge.merged.experts must be non-empty; got"),
        ({"seed": -1}, "config.seed must be a whole number from 0 to 4294967295; got -1"),
        ({"merge__merged__experts": ["@later"]}, "starts from @later"),
        (
            {"evals__scoring": "rewards"},
            "config.evals.scoring must be world in a pipeline, .*; got 'rewards'. Its stages may",
        ),
    ],
)
def test_impossible_pipelines_are_refused(config, small_world, tmp_path, changes, message):
    with small_world(), pytest.raises(UserError, match=message) as error:
        run_pipeline(changed(config, **changes), tmp_path / "new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_unusable_work_directories_are_refused(config, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for path, message in (
        (tmp_path / "thesis", "is not empty and has no pipeline.json"),
        (tmp_path / "thesis/chapter.tex", "is a file"),
        ("gs://bucket/run", "is an address"),
    ):
        with pytest.raises(UserError, match=message):
            run_pipeline(config, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "results.json' must be a JSON object; got a list; remove the file"),
        ({}, "policies in .*results.json' must be a JSON object; got nothing"),
        ({"policies": {"a": {"numbers": {"x": 1}}}}, "policies.a.numbers.x in .* got a number"),
    ],
)
def test_results_that_are_damaged(tmp_path, content, message):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        results.evaluate_policies(tmp_path, {}, {}, EvalsConfig())
