"""Every field of every block of a config: a good value, each kind of bad one, and the error it gives."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corl_jax.core.checks.config_block import INT32_MAX, config_block
from corl_jax.core.errors import UserError
from corl_jax.core.types import COLUMN_FIELDS
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.optim import OptimConfig
from corl_jax.objectives.kl import KlConfig
from corl_jax.porting.policy_merge import MergeSettings
from corl_jax.rewards.config import RewardOptions
from corl_jax.stages.config import (
    DataConfig,
    EvalsConfig,
    HooksConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrackersConfig,
    read_block,
)
from corl_jax.stages.rl.config_blocks import (
    AdvantageConfig,
    CheckConfig,
    CurriculumConfig,
    ExternalConfig,
    LogProbsConfig,
    LossConfig,
    PlanConfig,
    ReferenceConfig,
    RolloutConfig,
)
from corl_jax.stages.sft import SftConfig
from corl_jax.stages.tokenizer import TokenizerConfig

NAN, INF = math.nan, math.inf


@dataclasses.dataclass(frozen=True)
class Kind:
    """What fields of one kind accept.

    Attributes:
      expected: what errors say that the value must be.
      good, bad: values.
      renamed: bad value, as its ``repr``, to what the error says instead of ``expected``.
    """

    expected: str
    good: tuple
    bad: tuple
    renamed: dict = dataclasses.field(default_factory=dict)


FLOAT32_ONLY = (1e39, 1e-50, 1 - 1e-12)
"""Floats that float32 cannot hold, or rounds out of bounds."""
NO_NUMBERS = ("1", "", None, True, [], {}, "nan")


def whole(expected, good, bad):
    """Whole numbers in bounds."""
    lowest = expected.removeprefix(" of at least ")
    bounds = f"from {lowest} to" if lowest else "at most"
    large = {str(INT32_MAX + 1): f"a whole number {bounds} {INT32_MAX}"}
    return Kind(f"a whole number{expected}", good, (*bad, 1.5, NAN, INF, *NO_NUMBERS, 2**31), large)


def real(expected, good, bad):
    """Finite numbers in bounds."""
    bad = (*bad, NAN, INF, -INF, 10**400, *NO_NUMBERS, 1e39)
    return Kind(f"a finite number{expected}", good, bad)


def choice(*names):
    """One of some texts."""
    listed = ", ".join(name or "''" for name in names)
    return Kind(f"one of {listed}", names, ("odd", 1, None, True, 0.5, ["a"], NAN))


COUNT = whole(" of at least 0", (0, 1, INT32_MAX), (-1,))
POSITIVE = whole(" of at least 1", (1, 7, INT32_MAX), (0, -1))
SEED = dataclasses.replace(
    whole(" from 0 to 4294967295", (0, 2**31, 2**32 - 1), (-1, 2**32)),
    renamed={},
    bad=(-1, 2**32, 1.5, NAN, *NO_NUMBERS),
)
WORKERS = dataclasses.replace(
    whole(" from 0 to 256", (0, 1, 256), ()), renamed={}, bad=(-1, 257, 1.5, NAN, *NO_NUMBERS)
)
WEIGHT = real(" of at least 0", (0, 0.0, 0.5, 3e38, 2), (-1, -1e-9, 1e-50))
SHARE = real(" from 0 to 1", (0, 1, 0.5), (-0.1, 1.1))
BELOW_ONE = real(" of at least 0 and below 1", (0, 0.999), (1, 1 - 1e-12, 2, -1))
ABOVE_ZERO = real(" above 0", (1e-8, 3), (0, -1, 1e-50))
FLAG = Kind("True or False", (True, False), (0, 1, "True", None, NAN))
TEXT = Kind("a text", ("", "a"), (1, None, NAN, [], True))
TEXTS = Kind("a tuple such as ('a', 'b'), or ()", ((), ("a",), ["a", "b"]), ("a", 1, None, NAN, {}))
DTYPE = choice("float32", "bfloat16")
SAMPLER_DTYPE = choice("same", "int8")
PER_TASK = Kind(
    "a block with each of image, text",
    ({"image": 0, "text": 2.5},),
    ({}, {"image": 1.0}, {"image": 1.0, "text": 1.0, "sound": 1.0}, 1.0, None, [1.0], {1: 2}),
)
COLUMNS = Kind(
    f"a block with some of {', '.join(COLUMN_FIELDS)}",
    ({}, {"question": "problem"}),
    ({"problem": "question"}, 1.0, None, ["question"], {1: "a"}),
)
TEMPLATE = Kind(
    "one of as_is, think_answer, corl, r1_v, or a text with {question}",
    ("as_is", "r1_v", "{question} In one word.", "{question}"),
    ("", "think", "{Question}", "\ud800{question}"),
)
REQUEST_TEMPLATE = Kind(
    "one of auto, objects, instruct, or a text with {prompt}",
    ("auto", "instruct", "Plan: {prompt}"),
    ("", "plan", "{Prompt}", "\ud800{prompt}"),
)
FRACTION = real(" above 0 and below 1", (0.3,), (0, 1, -1))

TABLE = {
    (RunConfig, ""): {
        "stage": TEXT,
        "seed": SEED,
        "steps": POSITIVE,
        "microbatches": POSITIVE,
        "updates_per_step": POSITIVE,
        "init_from": TEXT,
        "progress_metrics": TEXTS,
    },
    (ModelConfig, "model"): {
        "size": choice("tiny", "janus_pro_1b", "janus_pro_7b"),
        "compute_dtype": choice("auto", "float32", "bfloat16"),
        "param_dtype": DTYPE,
        "remat": choice("none", "full", "dots"),
        "unroll": COUNT,
        "attention": choice("einsum", "cudnn", "splash"),
    },
    (LoraConfig, "lora"): {
        "rank": COUNT,
        "alpha": ABOVE_ZERO,
        "target": dataclasses.replace(TEXTS, good=(("a",),)),
        "base_dtype": DTYPE,
    },
    (MeshConfig, "mesh"): dict.fromkeys(("data", "fsdp", "tensor"), whole("", (1, -1, -32), ())),
    (DataConfig, "data"): {
        "source": Kind("a text", ("shapes", "a"), (1, None, NAN, [], True)),
        "cache_dir": TEXT,
        "columns": COLUMNS,
        "question_kinds": TEXTS,
        "qa_type": choice("", "MC", "OE"),
        "limit": COUNT,
        "held_out": BELOW_ONE,
        "template": TEMPLATE,
        "mixture": Kind("a block of keys", ({}, {"a": {"source": "b"}}), (1, None, NAN, [], "a")),
        "stages": Kind("a tuple such as (1, 2), or ()", ((), (1, 2), [5]), (1, "1", None, NAN, {})),
        "check": choice("all", "texts", "none"),
        "on_bad": choice("error", "drop"),
        "changed": choice("refuse", "accept"),
        "workers": WORKERS,
    },
    (HooksConfig, "hooks"): {
        "save_every": COUNT,
        "sample_every": COUNT,
        "probe_every": COUNT,
        "interference_every": COUNT,
        "completions_every": COUNT,
        "completions_groups": POSITIVE,
        "keep_completions": POSITIVE,
        "keep_checkpoints": POSITIVE,
        "trace_steps": COUNT,
        "trace_after": COUNT,
    },
    (TrackersConfig, "trackers"): {
        "names": dataclasses.replace(TEXTS, good=((), ("wandb",), ["tensorboard", "trackio"])),
        "every": COUNT,
        "project": dataclasses.replace(TEXT, good=("a",)),
        "run_name": TEXT,
    },
    (AlarmConfig, "alarms"): {
        "watch": TEXTS,
        "patience": POSITIVE,
        "dominant_share": SHARE,
        "diverging_probes": POSITIVE,
    },
    (EvalsConfig, "evals"): {
        "num_records": COUNT,
        "scoring": choice("world", "rewards"),
        "guidance_scales": Kind(
            "a tuple such as (1, 2), or ()", ((), (1.0, 2), [0.5]), (1.0, "1", None, NAN, {})
        ),
        "seed": SEED,
        "batch_size": POSITIVE,
    },
    (OptimConfig, "optim"): {
        "learning_rate": WEIGHT,
        "total_steps": POSITIVE,
        "warmup_steps": COUNT,
        "schedule": choice("constant", "linear", "cosine"),
        "final_fraction": SHARE,
        "b1": BELOW_ONE,
        "b2": BELOW_ONE,
        "eps": ABOVE_ZERO,
        "weight_decay": WEIGHT,
        "no_decay": TEXTS,
        "clip_norm": WEIGHT,
        "first_moment_dtype": DTYPE,
    },
    (RolloutConfig, "rl.rollout"): {
        "image_prompts": COUNT,
        "text_prompts": COUNT,
        "group_size": whole(" of at least 2", (2, 8), (1, 0, -1)),
        "alternate_every": COUNT,
        "guidance_scale": WEIGHT,
        "temperature": real(" of at least 1e-05", (1e-5, 1, 3.0), (0, 1e-9, -1)),
        "image_prompt_length": POSITIVE,
        "text_prompt_length": POSITIVE,
        "question_pictures": FLAG,
        "completion_length": POSITIVE,
        "weights_dtype": SAMPLER_DTYPE,
        "cache_dtype": SAMPLER_DTYPE,
        "minibatches": POSITIVE,
        "one_step_off_policy": FLAG,
    },
    (AdvantageConfig, "rl.advantage"): {
        "pairing": choice("unified", "separate", "sum_of_advantages"),
        "pairing_text_weight": WEIGHT,
        "baseline": choice("mean", "leave_one_out"),
        "normalization": choice("group", "batch", "none", "maxrl", "pass_at_k"),
        "pass_k": POSITIVE,
        "multi_objective_aggregation": choice("sum_then_normalize", "normalize_then_sum"),
        "resample_rounds": COUNT,
    },
    (LossConfig, "rl.loss"): {
        "aggregation": choice("sequence_mean", "token_mean", "fixed_length"),
        "clip": choice("ppo", "two_sided", "none", "cispo", "gspo", "sapo"),
        "clip_low": SHARE,
        "clip_high": WEIGHT,
        "clip_ceiling": real(" of at least 1", (1, 3.0), (0, -1)),
        "cispo_cap": real(" of at least 1", (1, 5.0), (0, -1)),
        "gspo_clip_low": PER_TASK,
        "gspo_clip_high": PER_TASK,
        "sapo_tau_positive": ABOVE_ZERO,
        "sapo_tau_negative": ABOVE_ZERO,
        "task_weight": PER_TASK,
        "entropy_bonus": PER_TASK,
        "entropy_target": PER_TASK,
        "entropy_rate": ABOVE_ZERO,
        "entropy_limit": ABOVE_ZERO,
        "mask_truncated_completions": FLAG,
        "importance_cap": dataclasses.replace(WEIGHT, good=(0, 1, 2.5)),
        "image_credit": choice("uniform", "contrast", "third"),
    },
    (CurriculumConfig, "rl.curriculum"): {
        "success": Kind(
            "a block with each of image, text",
            ({"image": "", "text": "accuracy"},),
            ({}, {"image": ""}, "", None, ["accuracy"], {1: "a"}),
        ),
        "success_at": real("", (0, -1, 0.5), ()),
        "difficulty": dataclasses.replace(TEXTS, good=(("none",), ["easy", "hard"])),
        "history": choice("none", "unsolved"),
    },
    (ExternalConfig, "rl.external"): {
        "image": choice("none", "record_image"),
        "exponent": WEIGHT,
    },
    (LogProbsConfig, "rl.log_probs"): {
        "guidance": choice("matched", "conditional"),
        "image_alignment": choice("aligned", "off_by_one_ulm_r1"),
        "shared_prefix": dataclasses.replace(TEXTS, good=((), ["text"], ("text", "image"))),
        "chunk_length": COUNT,
    },
    (ReferenceConfig, "rl.reference"): {
        "update_every": COUNT,
        "mix": real(" above 0 and at most 1", (1, 0.5), (0, 1.1, -1)),
    },
    (PlanConfig, "rl.plan"): {
        "length": COUNT,
        "prompt_length": POSITIVE,
        "template": REQUEST_TEMPLATE,
        "weighting": choice("joint", "share"),
        "share": SHARE,
    },
    (CheckConfig, "rl.check"): {
        "prompts": COUNT,
        "reward": TEXT,
        "weight": WEIGHT,
        "prompt_length": POSITIVE,
        "template": REQUEST_TEMPLATE,
    },
    (KlConfig, "kl.text"): {
        "schedule": choice(
            "none", "constant", "linear", "cosine", "grpo_d", "grpo_d_monotone", "adaptive"
        ),
        "start": dataclasses.replace(WEIGHT, good=(0.5, 1e-3)),
        "end": WEIGHT,
        "explore_fraction": FRACTION,
        "target_kl": ABOVE_ZERO,
        "adaptation_rate": FRACTION,
        "estimator": dataclasses.replace(choice("k1", "k2", "k3"), good=("k2", "k3")),
        "placement": choice("loss", "reward"),
    },
    (RewardOptions, "rewards.options"): {
        "normalization": choice("unit", "none", "running"),
        "captioner": TEXT,
        "similarity": TEXT,
        "image_distance": TEXT,
        "strict_whitespace": FLAG,
        "open_ended": choice("exact", "soft_jaccard"),
        "overlong_buffer": POSITIVE,
        "likelihood_judge": choice("reference", "policy"),
        "likelihood_baseline": choice("none", "blank"),
        "timeout": real(" from 0 to 10000000.0", (0, 600.0, 1e7), (-1, 2e7)),
        "custom": TEXTS,
        "models": Kind(
            "a block with some of captioner, bert, sentence, clip, hps, lpips",
            ({}, {"bert": "tiny"}),
            ({"vgg": ""}, "tiny", None, [], {1: ""}),
        ),
    },
    (SftConfig, "sft"): {
        "understanding_rows": COUNT,
        "generation_rows": whole(" of at least -1", (-1, 0, INT32_MAX), (-2,)),
        "document_rows": COUNT,
        "caption_share": SHARE,
        "malformed_share": SHARE,
        "cfg_dropout": SHARE,
        "generation_prompt_length": POSITIVE,
        "understanding_prompt_length": POSITIVE,
        "target_length": POSITIVE,
        "document_length": POSITIVE,
        "image_weight": WEIGHT,
        "document_weight": WEIGHT,
    },
    (TokenizerConfig, "tokenizer"): {
        "l2_weight": WEIGHT,
        "l1_weight": WEIGHT,
        "codebook_weight": WEIGHT,
        "commitment_weight": WEIGHT,
        "usage_weight": WEIGHT,
        "usage_temperature": ABOVE_ZERO,
    },
    (MergeSettings, "merge.merged"): {
        "method": choice("gaussian", "linear"),
        "lam": ABOVE_ZERO,
        "weights": dataclasses.replace(
            TEXTS, expected="a tuple such as (1, 2), or ()", good=((), (0.2, -1), [1.0])
        ),
        "dtype": choice("stored", "float32", "bfloat16"),
    },
}
"""Class and key of a block to the kind of each field."""

# Values of other fields, where the defaults leave none or would be refused by a rule between fields.
BASES = {
    RunConfig: {
        "stage": "rl",
        "seed": 0,
        "steps": 1,
        "microbatches": 1,
        "updates_per_step": 1,
        "init_from": "",
        "progress_metrics": (),
    },
    OptimConfig: {"learning_rate": 1e-3, "total_steps": INT32_MAX},
    KlConfig: {"schedule": "linear", "start": 0.1},
    MergeSettings: {"method": "linear"},
}


def block_of(cls, **changes):
    """All values of a block, with changes."""
    defaults = {
        field.name: field.default
        if field.default_factory is dataclasses.MISSING
        else field.default_factory()
        for field in dataclasses.fields(cls)
    }
    return defaults | BASES.get(cls, {}) | changes


def key_of(key, name):
    return f"config.{key}.{name}" if key else f"config.{name}"


FIELDS = [(cls, key, name) for (cls, key), fields in TABLE.items() for name in fields]
FIELD_NAMES = [key_of(key, name) for _, key, name in FIELDS]


def test_the_table_has_every_field():
    for (cls, _), fields in TABLE.items():
        assert list(fields) == [field.name for field in dataclasses.fields(cls)], cls


@pytest.mark.parametrize(("cls", "key", "name"), FIELDS, ids=FIELD_NAMES)
def test_good_values_are_read(cls, key, name):
    for value in TABLE[cls, key][name].good:
        # A KL term that is switched off has no coefficient.
        start = {"start": 0} if (name, value) == ("schedule", "none") else {}
        block = read_block(cls, block_of(cls, **{name: value}, **start), key)
        assert vars(block)[name] == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("cls", "key", "name"), FIELDS, ids=FIELD_NAMES)
def test_bad_values_are_named(cls, key, name):
    kind = TABLE[cls, key][name]
    for value in kind.bad:
        with pytest.raises(UserError) as error:
            read_block(cls, block_of(cls, **{name: value}), key)
        message = str(error.value)
        shown = repr(tuple(value) if isinstance(value, list) else value)[:100]
        expected = kind.renamed.get(shown, kind.expected)
        start = f"{key_of(key, name)} must be {expected}"

        # Numbers that are in bounds, and are not as a float32.
        options = (f"{start}; got {shown}", f"{start} in float32; got {shown}")
        assert message.startswith(options), message
        assert "in float32" not in message or value in FLOAT32_ONLY, message
        assert "\n" not in message and len(message) < 400


NESTED = [
    (EvalsConfig, "evals", {"guidance_scales": (1.0, NAN)}, "guidance_scales[1] must be a finite"),
    (EvalsConfig, "evals", {"guidance_scales": ("1",)}, "guidance_scales[0] must be a finite"),
    (LossConfig, "rl.loss", {"task_weight": {"image": 1, "text": -1}}, "task_weight.text must be a"),
    (LossConfig, "rl.loss", {"entropy_bonus": {"image": NAN, "text": 1}}, "entropy_bonus.image mu"),
    (MergeSettings, "merge.m", {"weights": (0.5, NAN)}, "weights[1] must be a finite number; got nan"),
    (LogProbsConfig, "rl.log_probs", {"shared_prefix": ("text", "sound")},
     "shared_prefix[1] must be one of image, text; got 'sound'"),
    (LoraConfig, "lora", {"target": ()}, "target must be non-empty; got (). It names kernels"),
    (DataConfig, "data", {"columns": {"question": 1}}, "columns.question must be a text; got 1"),
    (DataConfig, "data", {"columns": {"problem": "q"}}, "columns must be a block with some of id, "),
    (DataConfig, "data", {"question_kinds": (1,)}, "question_kinds[0] must be a text; got 1"),
    (RewardOptions, "rewards.options", {"models": {"bert": 3}}, "models.bert must be a text; got 3"),
]  # fmt: skip

RULES = [
    (AdvantageConfig, "rl.advantage", {"normalization": "pass_at_k", "baseline": "leave_one_out"},
     "baseline must be mean with normalization=pass_at_k, which has a baseline of its own; got"),
    (AdvantageConfig, "rl.advantage",
     {"multi_objective_aggregation": "normalize_then_sum", "normalization": "batch"},
     "multi_objective_aggregation must be sum_then_normalize unless normalization=group and"),
    (DataConfig, "data", {"stages": (5, 5)}, "stages must ascend; got (5, 5)"),
    (RunConfig, "", {"steps": 2**20, "updates_per_step": 2**12}, "steps must be at most 524287 with"),
    (MeshConfig, "mesh", {"fsdp": 0}, "fsdp must be a number of devices, or -1 for all; got 0"),
    (OptimConfig, "optim", {"warmup_steps": 5, "total_steps": 5, "schedule": "linear"},
     "warmup_steps must be less than total_steps=5 for the linear schedule; got 5"),
    (LossConfig, "rl.loss", {"clip": "two_sided", "clip_ceiling": 1.2},
     "clip_ceiling must be above 1 + clip_high=1.2, where the clip ends; got 1.2"),
    (LossConfig, "rl.loss", {"entropy_target": {"image": 0.0, "text": 2.0},
                             "entropy_bonus": {"image": 0.0, "text": 0.01}},
     "entropy_target.text must be 0 where entropy_bonus.text is not, since both multiply the entropy; "
     "got 2.0 and 0.01"),
    (LossConfig, "rl.loss", {"importance_cap": 0.5}, "importance_cap must be 0 (no weights) or at "),
    (KlConfig, "kl.text", {"schedule": "none", "start": 0.1}, "start must be 0 with schedule=none"),
    (KlConfig, "kl.text", {"schedule": "constant", "start": 0.0, "end": 0.03},
     "start must be above 0 with schedule=constant, whose coefficient cannot leave 0 otherwise"),
    (KlConfig, "kl.text", {"schedule": "adaptive", "start": 0.0}, "start must be above 0 with sched"),
    *((KlConfig, "kl.text", {"schedule": name, "start": 0.0, "end": 0.0},
       f"start must be above 0, or end must be, with schedule={name}, whose coefficient cannot")
      for name in ("linear", "cosine", "grpo_d", "grpo_d_monotone")),
    (KlConfig, "kl.text", {"estimator": "k1"},
     "estimator must be k2 or k3 in the loss, where the gradient of k1 is 0 on average; got k1"),
    (MergeSettings, "merge.m", {"method": "gaussian", "weights": (1.0,)},
     "weights must be () unless the method is linear; got (1.0,)"),
]  # fmt: skip
"""Rules between fields."""


@pytest.mark.parametrize(("cls", "key", "changes", "message"), NESTED + RULES)
def test_elements_and_rules_are_named(cls, key, changes, message):
    with pytest.raises(UserError) as error:
        read_block(cls, block_of(cls, **changes), key)
    assert str(error.value).startswith(key_of(key, message))


def test_k1_may_be_subtracted_from_rewards_and_no_kl_term_needs_no_estimator():
    assert read_block(KlConfig, block_of(KlConfig, estimator="k1", placement="reward"), "kl.text")
    assert KlConfig(estimator="k1", schedule="none").needs_reference is False


ANY_SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "none", "linear", "k1", "reward", "text", 10**5000, -(2**63)])
)
ANY_VALUE = (
    ANY_SCALAR
    | st.lists(ANY_SCALAR, max_size=3)
    | st.dictionaries(st.sampled_from(["image", "text", "bert", ""]), ANY_SCALAR, max_size=3)
)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(field=st.sampled_from(FIELDS), value=ANY_VALUE)
def test_any_value_gives_a_block_or_an_error_of_the_user(field, value):
    cls, key, name = field
    try:
        block = read_block(cls, block_of(cls, **{name: value}), key)
    except UserError as error:
        # One line that begins with a key of the block.
        prefix = f"config.{key}." if key else "config."
        assert str(error).startswith(prefix) and "\n" not in str(error) and len(str(error)) < 500
        return
    read = vars(block)[name]
    numbers = (
        [read]
        if not isinstance(read, tuple | dict)
        else list(read.values() if isinstance(read, dict) else read)
    )
    assert all(math.isfinite(number) for number in numbers if isinstance(number, int | float))
    assert dataclasses.replace(block) == block


def test_a_field_of_another_type_is_a_mistake_of_the_programmer():
    @config_block
    class Odd:
        values: set

    with pytest.raises(TypeError, match="cannot have a field of type <class 'set'>"):
        Odd(set())
