"""A pipeline that was killed goes on at the right stage and ends as one that never was; what is over is not redone.

All stages ask questions alone and have one KL coefficient, so that they share their programs.
"""

from __future__ import annotations

import importlib
import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.handoff import saved_manifest
from corl_jax.engine.manifest import read_manifest
from corl_jax.pipelines import results
from corl_jax.pipelines.run_pipeline import run_pipeline
from corl_jax.rewards.base import rewards

STAGES = ("unified", "refined_mc", "refined_oe")
SMALL = {
    "steps": 2,
    "hooks.save_every": 1,
    "hooks.sample_every": 0,
    "hooks.probe_every": 0,
    "hooks.tensorboard_every": 0,
    "rl.pictures": 0,
    "rl.questions": 4,
    "rl.group": 2,
    "rl.completion_length": 4,
    "optim.learning_rate": 1e-2,
    "optim.warmup_ratio": 0.0,
}


class Killed(BaseException):
    """As sudden as SIGKILL to all that is written: nobody catches it."""


@pytest.fixture(scope="module")
def config(small_config, dot_policy_folder):
    small_config("unified")  # makes configs importable
    c = importlib.import_module("configs.corl").get_config()
    del c.train["refined_t2i"]
    c.order = (*STAGES, "merged")
    for name in STAGES:
        c.train[name].update_from_flattened_dict(SMALL)
        c.train[name].kl = c.train.refined_mc.kl.copy_and_resolve_references()
    c.train.unified.init_from = str(dot_policy_folder)
    c.evals.n = 2
    found = json.loads(c.to_json_best_effort())
    for name in STAGES:
        found["train"][name]["rewards"] = {"image": {"redness": 1.0}, "text": {"letters": 1.0}}
    return found


@pytest.fixture
def die(monkeypatch):
    """A function that makes the call number ``at`` of the reward of texts the last thing that happens."""

    def arm(at):
        letters, calls = rewards["letters"], []

        def fatal(completions, context):
            calls.append(1)
            if len(calls) == at:
                raise Killed
            return letters(completions, context)

        monkeypatch.setitem(rewards._items, "letters", fatal)
        return lambda: monkeypatch.setitem(rewards._items, "letters", letters)

    return arm


@pytest.fixture
def measured(monkeypatch):
    """The policies that were measured, in order; numbers are made up."""
    names = []

    def evaluate(sampler, params, tokenizer, records, *, what, **how):
        if "dies at " + what in names:
            raise Killed
        names.append(what)
        return {
            name: {"value": 0.5, "stderr": 0.01, "n": 2}
            for name in ("t2i_strict@w=2", "qa_greedy_mc")
        }

    monkeypatch.setattr(results, "evaluate", evaluate)
    return names


@pytest.fixture(scope="module")
def whole(config, small_world, tmp_path_factory):
    home = tmp_path_factory.mktemp("pipeline") / "whole"
    with small_world(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "evaluate", lambda *given, **how: {})
        run_pipeline(config, home)
    return home


def test_stages_hand_on_what_they_made(whole):
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == sorted(
        (*STAGES, "merged")
    )
    noted = json.loads((whole / "pipeline.json").read_text())
    end = f"step 2 {saved_manifest(whole / 'unified').params_digest}"
    assert noted["unified"] == {"from": {}}
    assert [noted[name]["from"] for name in STAGES[1:]] == [{"unified": end}] * 2
    assert list(noted["merged"]["from"]) == ["unified", "refined_mc", "refined_oe"]
    digests = {saved_manifest(whole / name).params_digest for name in STAGES}
    assert len(digests) == 3 and (whole / "merged" / "model.safetensors").is_file()


def test_killed_in_the_middle_it_goes_on_at_the_right_stage(
    config, whole, die, measured, small_world, tmp_path, capsys
):
    home = tmp_path / "parts"
    revive = die(at=4)  # in the second step of refined_mc
    with small_world():
        with pytest.raises(Killed):
            run_pipeline(config, home)
        assert not (home / "refined_oe").exists() and not measured
        before = (home / "unified" / "metrics.jsonl").stat().st_mtime_ns
        revive()
        measured.append("dies at refined_mc")
        capsys.readouterr()
        with pytest.raises(Killed):
            run_pipeline(config, home)
        said = capsys.readouterr().out.splitlines()
        assert said == [
            "stage 1 of 4: unified is finished",
            "stage 2 of 4: refined_mc, from unified: step 1 of 2",
            "stage 3 of 4: refined_oe, from unified: step 0 of 2",
            "stage 4 of 4: merged, merging unified, refined_mc, refined_oe",
        ]
        assert measured[1:] == ["start", "unified"]
        measured.clear()
        run_pipeline(config, home)
    assert measured == ["refined_mc", "refined_oe", "merged"]
    assert (home / "unified" / "metrics.jsonl").stat().st_mtime_ns == before
    ends = [
        [read_manifest(one / name / "checkpoints/2").params_digest for name in STAGES]
        for one in (whole, home)
    ]
    assert ends[0] == ends[1] and None not in ends[0]
    files = [(one / "merged" / "model.safetensors").read_bytes() for one in (whole, home)]
    assert files[0] == files[1]
    table = (home / "results.md").read_text()
    assert "| policy | `t2i_strict@w=2` |" in table and "| merged | 50.0 ± 1.0 |" in table
    assert list(json.loads((home / "results.json").read_text())["policies"]) == [
        "start",
        *STAGES,
        "merged",
    ]


def test_all_over_nothing_is_done_again(config, whole, measured, small_world, capsys):
    before = {path: path.stat().st_mtime_ns for path in (whole / "refined_oe").rglob("*")}
    with small_world():
        run_pipeline(config, whole)
    assert measured == [] and {path: path.stat().st_mtime_ns for path in before} == before
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        f"stage {i} of 4: {name} is finished" for i, name in enumerate((*STAGES, "merged"), 1)
    ]


def changed(config, **values):
    """The config with dotted keys (``__`` for dots) set."""
    new = json.loads(json.dumps(config))
    for key, value in values.items():
        *path, last = key.split("__")
        at = new
        for part in path:
            at = at[part]
        at[last] = value
    return new


def test_a_stage_made_from_another_policy_is_not_passed_over(config, whole, measured, small_world):
    """Another merge, then a longer first stage: what was made from the shorter one is refused, not used."""
    with small_world():
        with pytest.raises(
            UserError, match="merged was made from another policy or in another way than now"
        ):
            run_pipeline(changed(config, merge__merged__lam=1.0), whole)
        with pytest.raises(UserError, match="seed is 0 there and 1 here"):
            run_pipeline(changed(config, train__unified__seed=1), whole)
        with pytest.raises(
            UserError, match="refined_mc was made from another policy .* delete that folder"
        ):
            run_pipeline(changed(config, train__unified__steps=3), whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"order": ["refined_mc", "unified", "refined_oe", "merged"]},
            "starts from @unified, which does",
        ),
        ({"order": ["unified", "refined_mc", "refined_oe"]}, "differ in 'merged'"),
        ({"order": ["unified"] * 2}, "'unified' stands twice"),
        ({"train__refined_oe__rl__group": 1}, "config.train.refined_oe: rl.group=1"),
        ({"train__refined_oe__stage": "dream"}, "train.refined_oe: unknown stage 'dream'"),
        ({"merge__merged__method": "mean"}, "unknown merge method 'mean'"),
        ({"merge__merged__experts": ["@later"]}, "starts from @later"),
    ],
)
def test_pipelines_that_cannot_be(config, small_world, tmp_path, change, says):
    with small_world(), pytest.raises(UserError, match=says) as error:
        run_pipeline(changed(config, **change), tmp_path / "new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_folders_of_others(config, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for place, says in (
        (tmp_path / "thesis", "holds no pipeline"),
        (tmp_path / "thesis/chapter.tex", "is a file"),
        ("gs://bucket/run", "is an address"),
    ):
        with pytest.raises(UserError, match=says):
            run_pipeline(config, place)
