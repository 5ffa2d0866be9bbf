"""What a stage cannot be built from is one clear line, before anything is written."""

from __future__ import annotations

import pytest

from corl_jax.core.errors import UserError
from corl_jax.stages.run import prepare, run

NO_KL = {f"kl.{task}.{end}": 0.0 for task in ("image", "text") for end in ("start", "end")}
OFF_BY_ONE = {"rl.image_logprob_alignment": "reference_off_by_one"}
BAD = [
    ("unified", {"rl.group": 1}, "rl.group=1 .*at least 2"),
    ("unified", {"rl.temperature": 0.0}, "rl.temperature=0"),
    ("unified", {"rl.guidance": -1.0}, "guidance=-1"),
    (
        "unified",
        {"rl.clip": "hard"},
        "rl.clip='hard' is unknown; expected one of ppo, two_sided, none",
    ),
    (
        "unified",
        {"rl.clip": "two_sided", "rl.clip_ceiling": 1.2},
        "rl.clip_ceiling=1.2 lies within the clip, .*=1.2;",
    ),
    (
        "unified",
        {"rl.baseline": "odd"},
        "unknown baseline 'odd'; expected one of leave_one_out, mean",
    ),
    ("unified", {"rl.entropy_bonus.text": -0.1}, "rl.entropy_bonus.text=-0.1 is out of range"),
    ("unified", {"rl.refill": -1}, "rl.refill=-1 is no count; expected 0"),
    (
        "unified",
        {"rl.reference_every": 2, **NO_KL},
        "rl.reference_every=2 moves a reference that nothing is measured",
    ),
    ("unified", {"rl.reference_mix": 0.0}, "rl.reference_mix=0.0 is no share"),
    (
        "unified",
        {"rl.image_logprob_alignment": "odd"},
        "rl.image_logprob_alignment='odd' is unknown",
    ),
    (
        "unified",
        {**OFF_BY_ONE, "rl.importance_cap": 2.0},
        "rl.importance_cap=2.0 compares .* of different tokens; set",
    ),
    (
        "unified",
        {"model.param_dtype": "int8"},
        "model.param_dtype='int8' is unknown; expected one of float32, bfloat16",
    ),
    (
        "unified",
        {"reward.open_ended": "odd"},
        "reward.open_ended='odd' is unknown; expected exact or soft_jaccard",
    ),
    ("unified", {"rl.pairing": "odd"}, "rl.pairing='odd' is unknown"),
    ("unified", {"rl.pairing": "unified", "rl.questions": 4}, "8 prompts and 4 questions"),
    ("unified", {"rl.pictures": 0, "rl.questions": 0}, "nothing to train on"),
    ("unified", {"rl.pictures": 999}, "999 pictures a step do not fit a source of 96"),
    ("unified", {"rl.scale": "odd"}, "unknown advantage scale 'odd'"),
    ("unified", {"rl.aggregation": "odd"}, "unknown loss aggregation 'odd'"),
    (
        "unified",
        {"rl.shared_prefix": ("text", "sound")},
        "rl.shared_prefix=\\('text', 'sound'\\) is no tuple of tasks",
    ),
    (
        "unified",
        {"rl.rollout_cache": "int4"},
        "rl.rollout_cache='int4' is unknown; expected one of same, int8",
    ),
    ("unified", {"rl.score_chunk": -1}, "rl.score_chunk=-1 is no number of tokens"),
    ("unified", {"rl.importance_cap": 0.5}, "rl.importance_cap=0.5 would shrink"),
    (
        "unified",
        {"rl.stale_rollouts": True},
        "rl.importance_cap=0.0 and updates_per_step=1; set rl.importance_cap=2",
    ),
    ("unified", {"rl.logprob_guidance": "odd"}, "rl.logprob_guidance='odd'"),
    ("unified", {"kl.text.schedule": "odd"}, "unknown KL schedule 'odd'; expected one of adaptive"),
    ("unified", {"kl.image.end": -1.0}, "KL coefficients"),
    (
        "unified",
        {"trainable": ("brain/*",)},
        "trainable pattern 'brain/\\*' matches no parameter; .*language_model",
    ),
    ("unified", {"lora.rank": -1}, "lora.rank=-1 is no rank"),
    (
        "unified",
        {"lora.rank": 4, "lora.target": ("brain/*",)},
        "lora.target pattern 'brain/\\*' names no linear map",
    ),
    ("unified", {"init_from": "nowhere"}, "policy 'nowhere' is no folder"),
    ("unified", {"init_from": "brain/*=DOT"}, "init_from pattern 'brain/\\*' matches no parameter"),
    (
        "unified",
        {"init_from": "*=DOT,aligner/*=DOT"},
        "init_from pattern 'aligner/\\*' .*still to be filled",
    ),
    ("unified", {"init_from": "*=DOT,aligner/*=TINY"}, "models of different sizes"),
    (
        "unified",
        {"model.size": "janus_pro_1b"},
        "model size 'janus_pro_1b' is not the size of the policy in init_from",
    ),
    ("unified", {"model.size": "huge", "init_from": ""}, "unknown model size 'huge'"),
    ("unified", {"model.remat": "odd"}, "unknown remat policy 'odd'"),
    (
        "unified",
        {"model.attention": "splash"},
        "attention kernel 'splash' needs a TPU, the programs are for cpu",
    ),
    ("unified", {"model.unroll": 0}, "model.unroll=0 is no number of layers"),
    ("unified", {"model.compute_dtype": "float8"}, "unknown compute_dtype 'float8'"),
    ("unified", {"mesh.data": 3}, "needs 3 devices, but there are 1"),
    ("unified", {"data.name": "birds"}, "unknown data set 'birds'"),
    ("unified", {"stage": "dream"}, "unknown stage 'dream'; expected one of tokenizer, sft, rl"),
    ("unified", {"steps": 0}, "config.steps=0 is no count"),
    ("unified", {"microbatches": 3}, "8 pictures a step do not split into 3 microbatches"),
    ("unified", {"updates_per_step": 0}, "config.updates_per_step=0"),
    ("unified", {"optim.warmup_ratio": 1.0}, "warmup_ratio"),
    ("unified", {"optim.schedule": "odd"}, "odd"),
    ("unified", {"hooks.keep": 0}, "hooks.keep=0"),
    ("sft", {"updates_per_step": 2}, "updates_per_step=2 is for reinforcement learning"),
    ("sft", {"sft.reading_rows": 5}, "sft.reading_rows=5 is more than batch_size=4"),
    ("sft", {"sft.dropout": 1.5}, "dropout=1.5 is no share"),
    ("tokenizer", {"lora.rank": 4}, "config.lora.rank=4 is for stages that train a language model"),
    (
        "tokenizer",
        {"init_from": "language_model/*=DOT"},
        "init_from pattern 'language_model/\\*' matches no parameter",
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "says"), BAD, ids=[" ".join(map(str, c.items())) for _, c, _ in BAD]
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
    says,
):
    monkeypatch.chdir(tmp_path)
    if "init_from" in change:
        places = (
            change["init_from"]
            .replace("DOT", str(dot_policy_folder))
            .replace("TINY", str(tiny_policy_folder))
        )
        change = change | {"init_from": places}
    with small_world(), pytest.raises(UserError, match=says) as error:
        prepare(small_config(name, **change), tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_unknown_and_missing_fields_of_a_block(small_config, small_world, tmp_path):
    config = small_config("unified")
    config["rl"]["colour"] = 1
    with (
        small_world(),
        pytest.raises(UserError, match="config.rl has unknown fields colour; expected aggregation"),
    ):
        prepare(config, tmp_path / "new")
    del config["rl"]["colour"], config["rl"]["group"]
    with small_world(), pytest.raises(UserError, match=r"config.rl: .*'group'"):
        prepare(config, tmp_path / "new")


def test_an_unknown_reward_lists_the_names(small_config, small_world, tmp_path):
    config = small_config("unified")
    config["rewards"]["image"]["beauty"] = 1.0
    with (
        small_world(),
        pytest.raises(
            UserError, match="unknown reward 'beauty'; expected one of accuracy, .*cycle"
        ),
    ):
        prepare(config, tmp_path / "new")


def test_an_asked_task_without_a_reward(small_config, small_world, tmp_path):
    config = small_config("unified")
    config["rewards"]["text"] = {}
    with small_world(), pytest.raises(UserError, match="no reward is configured for text"):
        prepare(config, tmp_path / "new")


@pytest.mark.parametrize(
    ("key", "value"), [("rl.text_prompt_length", 16), ("rl.image_prompt_length", 4)]
)
def test_prompts_that_do_not_fit_are_told_while_reading(
    small_config, small_world, tmp_path, key, value
):
    """From the threads that read ahead, too, a UserError comes out as one."""
    with small_world(), pytest.raises(UserError, match=f"at most {value} are allowed"):
        run(small_config("unified", **{key: value}), tmp_path / "new")


def test_another_config_in_the_same_folder(small_config, small_world, tmp_path):
    with small_world():
        prepare(small_config("unified"), tmp_path / "run")
        before = {
            path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
        }
        with pytest.raises(
            UserError, match="belongs to a run of another config: seed is 0 there and 1 here"
        ):
            prepare(small_config("unified", seed=1), tmp_path / "run")
        assert before == {
            path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
        }
        prepare(small_config("unified"), tmp_path / "run")
