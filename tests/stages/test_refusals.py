"""A value of a config that cannot work gives one clear line, before anything is written."""

from __future__ import annotations

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.problems import SeveralProblems
from corl_jax.rewards.base import rewards
from corl_jax.stages.run import prepare, run

NO_KL = {f"kl.{task}.schedule": "none" for task in ("image", "text")}
PASS_AT_1 = {"rl.advantage.normalization": "pass_at_k", "rl.advantage.pass_k": 1}
OFF_BY_ONE = {"rl.log_probs.image_alignment": "off_by_one_ulm_r1"}

BAD_RL_VALUES = [
    # Blocks of config.rl, value by value.
    (
        {"rl.rollout.group_size": 1},
        "config.rl.rollout.group_size must be a whole number of at least 2; got 1. Samples are",
    ),
    (
        {"rl.rollout.temperature": 0.0},
        "config.rl.rollout.temperature must be a finite number of at least 1e-05; got 0.0. Greedy",
    ),
    (
        {"rl.rollout.guidance_scale": -1.0},
        "config.rl.rollout.guidance_scale must be a finite number of at least 0; got -1.0",
    ),
    (
        {"rl.rollout.cache_dtype": "int4"},
        "config.rl.rollout.cache_dtype must be one of same, int8; got 'int4'",
    ),
    (
        {"rl.loss.clip": "hard"},
        "config.rl.loss.clip must be one of ppo, two_sided, none, .*; got 'hard'",
    ),
    (
        {"rl.loss.clip": "two_sided", "rl.loss.clip_ceiling": 1.2},
        r"config.rl.loss.clip_ceiling must be above 1 \+ clip_high=1.2, .*; got 1.2.",
    ),
    (
        {"rl.loss.entropy_bonus.text": -0.1},
        "config.rl.loss.entropy_bonus.text must be a finite number of at least 0; got -0.1",
    ),
    (
        {"rl.loss.aggregation": "odd"},
        "config.rl.loss.aggregation must be one of sequence_mean, .*; got 'odd'",
    ),
    (
        {"rl.loss.importance_cap": 0.5},
        "config.rl.loss.importance_cap must be 0 .* or at least 1; got 0.5. "
        "Below 1 it would shrink",
    ),
    (
        {"rl.advantage.baseline": "odd"},
        "config.rl.advantage.baseline must be one of mean, leave_one_out; got 'odd'",
    ),
    (
        {"rl.advantage.resample_rounds": -1},
        "config.rl.advantage.resample_rounds must be a whole number of at least 0; got -1",
    ),
    (
        {"rl.advantage.pairing": "odd"},
        "config.rl.advantage.pairing must be one of unified, separate, sum_of_advantages; "
        "got 'odd'",
    ),
    (
        {"rl.advantage.normalization": "odd"},
        "config.rl.advantage.normalization must be one of group, batch, none, .*; got 'odd'",
    ),
    (
        {"rl.reference.mix": 0.0},
        "config.rl.reference.mix must be a finite number above 0 and at most 1; got 0.0",
    ),
    (
        {"rl.log_probs.guidance": "odd"},
        "config.rl.log_probs.guidance must be one of matched, conditional; got 'odd'",
    ),
    (
        {"rl.log_probs.image_alignment": "odd"},
        "config.rl.log_probs.image_alignment must be one of aligned, off_by_one_ulm_r1; got 'odd'",
    ),
    (
        {"rl.log_probs.shared_prefix": ("text", "sound")},
        r"config.rl.log_probs.shared_prefix\[1\] must be one of image, text; got 'sound'",
    ),
    (
        {"rl.log_probs.chunk_length": -1},
        "config.rl.log_probs.chunk_length must be a whole number of at least 0; got -1",
    ),
    # Rules between blocks.
    (
        {"rl.reference.update_every": 2, **NO_KL},
        "config.rl.reference.update_every must be 0 where no task has a KL term; got 2",
    ),
    (
        {**OFF_BY_ONE, "rl.loss.importance_cap": 2.0},
        "config.rl.loss.importance_cap=2.0 compares .* must be 'aligned'; got 'off_by_one_ulm_r1'.",
    ),
    (
        {"rl.advantage.pairing": "unified", "rl.rollout.text_prompts": 4},
        "config.rl.advantage.pairing='unified' .* must be equal; got 8 and 4.",
    ),
    (
        {"rl.rollout.image_prompts": 0, "rl.rollout.text_prompts": 0},
        "must have image prompts or text prompts; got 0 and 0",
    ),
    (
        {"rl.rollout.image_prompts": 999},
        "config.rl.rollout.image_prompts must be at most .* training records, 96; got 999",
    ),
    (
        {"rl.rollout.one_step_off_policy": True},
        "got importance_cap=0.0 and updates_per_step=1. Set config.rl.loss.importance_cap=2",
    ),
    (
        {"rl.advantage.normalization": "pass_at_k"},
        "config.rl.advantage.pass_k must be below config.rl.rollout.group_size=2, .*; got 4.",
    ),
    (
        {**PASS_AT_1, "rl.advantage.pairing": "unified"},
        "config.rl.advantage.normalization='pass_at_k' needs .*; got pairing='unified'.",
    ),
    (
        {"rl.advantage.normalization": "maxrl", "rewards.options.normalization": "running"},
        "config.rl.advantage.normalization='maxrl' takes rewards as they are; got config.rewards",
    ),
    (
        {
            "rl.advantage.multi_objective_aggregation": "normalize_then_sum",
            "kl.text.placement": "reward",
        },
        "='normalize_then_sum' has no place .*; got config.kl.text.placement='reward'. Choose",
    ),
    (
        {"updates_per_step": 3, "rl.rollout.minibatches": 2},
        "config.updates_per_step must be a multiple of .*minibatches=2, .*; got 3. Set it to 2",
    ),
    (
        {"updates_per_step": 4, "rl.rollout.minibatches": 4, "microbatches": 4},
        "config.rl.rollout.image_prompts must divide into minibatches=4 of .*=4 each; got 8.",
    ),
    # config.rewards and config.kl.
    (
        {"rewards.options.open_ended": "odd"},
        "config.rewards.options.open_ended must be one of exact, soft_jaccard; got 'odd'",
    ),
    (
        {"kl.text.schedule": "odd"},
        "config.kl.text.schedule must be one of none, constant, .*; got 'odd'",
    ),
    (
        {"kl.image.end": -1.0},
        "config.kl.image.end must be a finite number of at least 0; got -1.0",
    ),
    (
        {"kl.text.schedule": "constant"},
        "config.kl.text.start must be above 0 with schedule=constant.*; got 0. .*schedule=none",
    ),
    (
        {"kl.text.estimator": "k1"},
        "config.kl.text.estimator must be k2 or k3 in the loss.*Choose placement=reward",
    ),
    (
        {"rewards.text.accuracy": float("nan")},
        "config.rewards.text.accuracy must be a finite number; got nan",
    ),
    (
        {"rewards.options.captioner": "odd"},
        "config.rewards.options.captioner must be one of shapes_parser, blip, self; got 'odd'",
    ),
    (
        {"rl.rollout.completion_length": 100_000},
        "must have at most 128 tokens together, the positions of the policy; got "
        "config.rl.rollout.text_prompt_length of 64 and config.rl.rollout.completion_length of 100",
    ),
    (
        {"rl.rollout.image_prompt_length": 125},
        "at most 128 tokens .*; got config.rl.rollout.image_prompt_length of 125 and an image of 4",
    ),
]
"""Changes of ``configs/unified.py``, and the error that each gives."""

BAD_SHARED_VALUES = [
    # The model and where its parameters come from.
    (
        {"model.param_dtype": "int8"},
        "config.model.param_dtype must be one of float32, bfloat16; got 'int8'",
    ),
    (
        {"model.remat": "odd"},
        "config.model.remat must be one of none, full, dots; got 'odd'",
    ),
    (
        {"model.attention": "splash"},
        "attention kernel 'splash' needs a TPU, the programs are for cpu",
    ),
    (
        {"model.unroll": -1},
        "config.model.unroll must be a whole number of at least 0; got -1",
    ),
    (
        {"model.compute_dtype": "float8"},
        "config.model.compute_dtype must be one of auto, float32, bfloat16; got 'float8'",
    ),
    (
        {"model.size": "huge", "init_from": ""},
        "config.model.size must be one of tiny, .*; got 'huge'",
    ),
    (
        {"model.size": "janus_pro_1b"},
        "config.model.size='janus_pro_1b' must be the size of the policy in init_from",
    ),
    (
        {"init_from": "nowhere"},
        "policy 'nowhere' is not a folder",
    ),
    (
        {"init_from": "brain/*=DOT"},
        r"init_from pattern 'brain/\*' must match a parameter",
    ),
    (
        {"init_from": "*=DOT,aligner/*=DOT"},
        r"init_from pattern 'aligner/\*' must match a parameter that no pattern before it matches",
    ),
    (
        {"init_from": "*=DOT,aligner/*=TINY"},
        "must hold models of one size; got 2 sizes",
    ),
    (
        {"trainable": ("brain/*",)},
        r"trainable pattern 'brain/\*' matches no parameter; .*language_model",
    ),
    (
        {"trainable": ()},
        r"config.trainable must be non-empty; got \(\). Name parameters by patterns",
    ),
    (
        {"lora.rank": -1},
        "config.lora.rank must be a whole number of at least 0; got -1",
    ),
    (
        {"lora.rank": 4, "lora.target": ("brain/*",)},
        r"lora.target pattern 'brain/\*' names no linear map",
    ),
    # The run.
    ({"mesh.data": 3}, "needs 3 devices, but there are 1"),
    ({"data.source": ""}, "config.data.source must be non-empty; got ''"),
    ({"stage": "dream"}, "config.stage must be one of tokenizer, sft, rl; got 'dream'"),
    ({"steps": 0}, "config.steps must be a whole number of at least 1; got 0"),
    (
        {"microbatches": 3},
        "config.rl.rollout.image_prompts must divide into config.microbatches=3; got 8",
    ),
    (
        {"updates_per_step": 0},
        "config.updates_per_step must be a whole number of at least 1; got 0",
    ),
    (
        {"optim.warmup_ratio": 1.0},
        "config.optim.warmup_ratio must be a finite number of at least 0 and below 1; got 1.0",
    ),
    ({"optim.schedule": "odd"}, "config.optim.schedule must be one of constant, .*; got 'odd'"),
    ({"optim.b1": 2.0}, "config.optim.b1 must be a finite number of at least 0 and below 1; got 2"),
    ({"seed": -1}, "config.seed must be a whole number from 0 to 4294967295; got -1"),
    ({"seed": 2**32}, "config.seed must be a whole number from 0 to 4294967295; got 4294967296"),
    ({"evals.seed": -1}, "config.evals.seed must be a whole number from 0 to 4294967295; got -1"),
    ({"evals.num_records": -1}, "config.evals.num_records must be a whole number of at least 0;"),
    ({"mesh.fsdp": 0}, "config.mesh.fsdp must be a number of devices, or -1 for all; got 0"),
    (
        {"hooks.keep_checkpoints": 0},
        "config.hooks.keep_checkpoints must be a whole number of at least 1; got 0",
    ),
]
"""Changes of ``configs/unified.py`` that any stage refuses."""

BAD_VALUES = [
    *(("unified", *case) for case in BAD_RL_VALUES + BAD_SHARED_VALUES),
    (
        "sft",
        {"updates_per_step": 2},
        "config.updates_per_step must be 1 outside reinforcement learning; got 2",
    ),
    (
        "sft",
        {"sft.understanding_rows": 5},
        "config.sft.understanding_rows must be at most batch_size=4; got 5",
    ),
    (
        "sft",
        {"sft.cfg_dropout": 1.5},
        "config.sft.cfg_dropout must be a finite number from 0 to 1; got 1.5",
    ),
    (
        "sft",
        {"sft.target_length": 100},
        "got config.sft.understanding_prompt_length of 64 and config.sft.target_length of 100",
    ),
    ("sft", {"batch_size": 0}, "config.batch_size must be a whole number of at least 1; got 0"),
    (
        "tokenizer",
        {"lora.rank": 4},
        "config.lora.rank must be 0 in stages that do not train a language model; got 4",
    ),
    (
        "tokenizer",
        {"init_from": "language_model/*=DOT"},
        r"init_from pattern 'language_model/\*' must match a parameter",
    ),
]


def change_id(change):
    return " ".join(map(str, change.items()))


@pytest.mark.parametrize(
    ("name", "change", "message"), BAD_VALUES, ids=[change_id(case[1]) for case in BAD_VALUES]
)
def test_bad_values(
    small_config,
    small_world,
    dot_policy_folder,
    tiny_policy_folder,
    tmp_path,
    monkeypatch,
    name,
    change,
    message,
):
    monkeypatch.chdir(tmp_path)
    if "init_from" in change:
        init_from = change["init_from"].replace("DOT", str(dot_policy_folder))
        change = change | {"init_from": init_from.replace("TINY", str(tiny_policy_folder))}

    with small_world(), pytest.raises(UserError, match=message) as error:
        prepare(small_config(name, **change), tmp_path / "new")
    # A line for each problem, and nothing is left behind.
    lines = str(error.value).split("\n")
    assert len(lines) == 1 or lines[0] == f"{len(lines) - 1} problems, and nothing was written:"
    assert not list(tmp_path.iterdir())


def test_unknown_and_missing_keys_of_a_block(small_config, small_world, tmp_path):
    def message_of(config):
        with small_world(), pytest.raises(UserError) as error:
            prepare(config, tmp_path / "new")
        return str(error.value)

    config = small_config("unified")
    config["rl"]["colour"] = 1
    assert message_of(config) == (
        "config.rl must have the keys advantage, check, curriculum, external, log_probs, loss, plan, "
        "reference, rollout; "
        "got colour too"
    )

    config = small_config("unified")
    config["rl"]["rollout"]["colour"] = 1
    assert message_of(config).startswith(
        "config.rl.rollout must have the keys alternate_every, cache_dtype, "
    )
    assert message_of(config).endswith("; got colour too")

    config = small_config("unified")
    del config["rl"]["rollout"]["group_size"]
    assert message_of(config).endswith("; group_size is missing")


def test_an_unknown_reward_lists_the_names(small_config, small_world, tmp_path):
    config = small_config("unified")
    config["rewards"]["image"]["beauty"] = 1.0
    message = "unknown reward 'beauty'; expected one of accuracy, .*cycle"
    with small_world(), pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "new")


def test_a_trained_task_without_a_reward(small_config, small_world, tmp_path):
    config = small_config("unified")
    config["rewards"]["text"] = {}
    message = "config.rewards.text must name at least one reward; got none"
    with small_world(), pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "new")


@pytest.mark.parametrize(
    ("key", "value"), [("rl.rollout.text_prompt_length", 16), ("rl.rollout.image_prompt_length", 4)]
)
def test_a_prompt_that_is_too_long_is_an_error_of_the_user(
    small_config, small_world, tmp_path, key, value
):
    """The threads that read ahead pass a UserError on as it is."""
    with small_world(), pytest.raises(UserError, match=f"at most {value} are allowed"):
        run(small_config("unified", **{key: value}), tmp_path / "new")


def test_several_values_are_named_at_once(small_config, small_world, tmp_path):
    """Also those of several blocks, and what is wrong with the work directory."""
    (tmp_path / "file").write_text("")
    values = {"rl.rollout.group_size": 1, "kl.text.schedule": "odd", "optim.b1": 2.0}
    config = small_config("unified", **values)
    config["rewards"]["image"]["beauty"] = 1.0
    with small_world(), pytest.raises(SeveralProblems) as error:
        prepare(config, tmp_path)
    for part in ("rollout.group_size must", "kl.text.schedule must", "optim.b1 must", "'beauty'"):
        assert sum(part in problem for problem in error.value.problems) == 1
    assert "is not empty and has no config.json" in error.value.problems[-1]
    assert len(error.value.problems) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_first_step_that_fails_leaves_no_folder_behind(small_config, small_world, tmp_path):
    """The mended command may have other rewards, so it must find no run of these."""

    def broken(completions, context):
        raise ZeroDivisionError("no reward")

    config = small_config("unified", **{"rl.rollout.text_prompts": 0})
    config["rewards"]["image"] = {"broken": 1.0}
    config["hooks"]["probe_every"] = 0
    with pytest.MonkeyPatch.context() as patch, small_world():
        patch.setattr(rewards, "_entries", {**rewards._entries, "broken": broken})
        with pytest.raises(UserError, match="reward 'broken' failed on"):
            run(config, tmp_path / "new" / "run")
        assert not (tmp_path / "new").exists()

        # A folder of the user stays, and so does a run that was there before.
        (tmp_path / "mine").mkdir()
        with pytest.raises(UserError, match="reward 'broken' failed on"):
            run(config, tmp_path / "mine")
        assert not list((tmp_path / "mine").iterdir())
        prepare(config, tmp_path / "mine")
        with pytest.raises(UserError, match="reward 'broken' failed on"):
            run(config, tmp_path / "mine")
        assert (tmp_path / "mine" / "config.json").exists()


def test_another_config_in_the_same_folder(small_config, small_world, tmp_path):
    def contents():
        files = (path for path in (tmp_path / "run").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    with small_world():
        prepare(small_config("unified"), tmp_path / "run")
        before = contents()
        message = "belongs to a run of another config: seed was 0 and is now 1"
        with pytest.raises(UserError, match=message):
            prepare(small_config("unified", seed=1), tmp_path / "run")
        assert contents() == before
        prepare(small_config("unified"), tmp_path / "run")
