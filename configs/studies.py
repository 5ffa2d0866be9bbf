"""Studies that compare recipes on the embedded world, for ``corl study NAME``.

Each study tests a claim of a paper. An arm is a list of commands, and its last command writes
``eval.json``. Every policy is evaluated in the same way. All runs are short: fewer steps than in
the recipes, and the same number in every run. Studies of methods beyond the two papers are in
``configs/method_studies.py`` and ``configs/order_study.py``.
"""

from __future__ import annotations

from corl_jax.configs.method_studies import METHOD_STUDIES
from corl_jax.configs.order_study import ORDER
from corl_jax.configs.study_arms import (
    ANSWERS,
    METRICS,
    PICTURES,
    STEPS,
    evaluated,
    rl_command,
    train_command,
)
from corl_jax.studies.comparison import Command, Expectation, Study

QUESTION_KIND_METRICS = (
    "qa_greedy/count",
    "qa_greedy/relation",
    "qa_greedy",
    "qa_sampled_strict",
)
"""Metrics of two kinds of questions, and of all answers."""


def refine_command(init_from: str) -> Command:
    """The second stage of CoRL, refined RL, on images. It starts from the policy ``init_from``."""
    return rl_command("refined_t2i", f"--config.init_from={init_from}", name="refine")


def merge_arm(*experts: str) -> tuple[Command, ...]:
    """An arm: the Gaussian merge of policies that earlier arms have trained, ``{ARM/COMMAND}``."""
    flags = ("--base", "tiny", "--experts", *experts, "--out", "{out}/policy")
    merge = Command("merge", ("corl_jax.commands.cli", "merge", *flags), trains=False)
    return evaluated(merge, policy="{before}/policy")


def kl_arm(schedule: str, start: float, end: float) -> tuple[Command, ...]:
    """An arm: the unified run with this KL coefficient for both tasks."""
    values = {"schedule": schedule, "start": start, "end": end}
    changes = []
    for task in ("image", "text"):
        changes += [f"--config.kl.{task}.{key}={value}" for key, value in values.items()]
    return evaluated(rl_command("unified", *changes))


def sft_arm(question_kind: str, *changes: str) -> tuple[Command, ...]:
    """An arm: supervised learning of answers to one kind of question, without images.

    The number of questions is the same as in the run of reinforcement learning.
    """
    kinds = f"--config.data.question_kinds=('{question_kind}',)"
    return evaluated(train_command("cold_sft", kinds, "--config.sft.image_weight=0.", *changes))


PARADIGMS = Study(
    "What does one policy gain from learning both tasks at once?",
    "CoRL, pilot study: training on one task alone hardly improves that task and harms the other; "
    "training on both at once is best for both.",
    {
        "base": evaluated(policy="tiny"),
        "sft": evaluated(train_command("cold_sft")),
        "pictures_alone": evaluated(rl_command("separate_t2i")),
        "answers_alone": evaluated(rl_command("separate_und")),
        "merged": merge_arm("{pictures_alone/train}", "{answers_alone/train}"),
        # Twice the steps, so that each task has as many updates as in the other arms.
        "by_turns": evaluated(rl_command("cycle", steps=2 * STEPS)),
        "unified": evaluated(rl_command("unified")),
    },
    METRICS,
    (
        Expectation("pictures_alone", "like", "base", PICTURES),
        Expectation("answers_alone", "like", "base", ANSWERS),
        Expectation("base", "above", "answers_alone", PICTURES),
        Expectation("base", "above", "pictures_alone", ANSWERS),
        Expectation("unified", "above", "pictures_alone", PICTURES),
        Expectation("unified", "above", "answers_alone", ANSWERS),
    ),
)

KL = Study(
    "Is a KL coefficient that changes better than a constant one?",
    "OThink-MR1: GRPO-D, whose coefficient falls and then rises, is better than the best constant "
    "coefficient.",
    {
        "none": kl_arm("none", 0.0, 0.0),
        "constant_0.01": kl_arm("constant", 0.01, 0.01),
        "constant_0.03": kl_arm("constant", 0.03, 0.03),
        "linear": kl_arm("linear", 0.0, 0.03),
        "grpo_d": kl_arm("grpo_d", 0.0, 0.03),
        "adaptive": kl_arm("adaptive", 0.01, 0.0),
    },
    METRICS,
    (
        Expectation("grpo_d", "above", "constant_0.01", PICTURES),
        Expectation("grpo_d", "above", "constant_0.03", PICTURES),
        Expectation("grpo_d", "above", "constant_0.01", ANSWERS),
        Expectation("grpo_d", "above", "constant_0.03", ANSWERS),
    ),
)

GUIDANCE = Study(
    "Which distribution should log-probs of images be computed under?",
    "The CoRL code samples with guidance and computes log-probs without it; the paper does not "
    "compare the two.",
    {
        "matched": evaluated(rl_command("unified")),
        "conditional": evaluated(
            rl_command("unified", "--config.rl.log_probs.guidance=conditional")
        ),
        "none": evaluated(rl_command("unified", "--config.rl.rollout.guidance_scale=1.0")),
    },
    METRICS,
)

STAGES = Study(
    "What does each stage of training add to the others?",
    "CoRL, table of paradigms: unified and then refined is best; supervised and then refined is "
    "nearly as good in answers.",
    {
        "base": evaluated(policy="tiny"),
        "sft": evaluated(train_command("cold_sft")),
        "unified": evaluated(rl_command("unified")),
        "refined": evaluated(refine_command("tiny")),
        "sft_refined": evaluated(refine_command("{sft/train}")),
        "unified_refined": evaluated(refine_command("{unified/train}")),
    },
    METRICS,
    (
        Expectation("unified_refined", "above", "unified", PICTURES),
        Expectation("unified_refined", "above", "refined", PICTURES),
        Expectation("unified_refined", "above", "sft_refined", PICTURES),
        Expectation("sft_refined", "like", "unified_refined", ANSWERS),
    ),
)

# The arms differ in the rewards of images, an argument of the config file.
IMAGE_REWARDS = Study(
    "Which image reward improves the policy most?",
    "CoRL, table of rewards: cycle consistency helps more than a matching reward, and both "
    "together help most.",
    {
        arm: evaluated(rl_command("unified", argument=f":tiny,rewards={rewards}"))
        for arm, rewards in {
            "exact": "shapes_strict",
            "soft": "shapes_soft",
            "cycle": "cycle",
            "matching": "matching",
            "cycle_and_matching": "cycle+matching",
        }.items()
    },
    METRICS,
    (
        Expectation("cycle", "above", "matching", PICTURES),
        Expectation("cycle_and_matching", "above", "cycle", PICTURES),
        Expectation("cycle_and_matching", "above", "matching", PICTURES),
    ),
)

# Counting has 100 records, as in OThink-MR1; the questions about relation are not limited.
TRANSFER = Study(
    "Does learning one kind of question transfer to another?",
    "OThink-MR1: reinforcement learning transfers from counting to geometry and back; supervised "
    "learning does not.",
    {
        "base": evaluated(policy="tiny"),
        "count_rl": evaluated(rl_command("counting")),
        "count_sft": sft_arm("count", "--config.data.limit=100"),
        "relation_rl": evaluated(rl_command("geometry")),
        "relation_sft": sft_arm("relation"),
    },
    QUESTION_KIND_METRICS,
    (
        Expectation("count_rl", "above", "base", "qa_greedy/relation"),
        Expectation("relation_rl", "above", "base", "qa_greedy/count"),
        Expectation("count_sft", "like", "base", "qa_greedy/relation"),
        Expectation("relation_sft", "like", "base", "qa_greedy/count"),
    ),
)

STUDIES = {
    "paradigms": PARADIGMS,
    "kl": KL,
    "guidance": GUIDANCE,
    "stages": STAGES,
    "image_rewards": IMAGE_REWARDS,
    "transfer": TRANSFER,
    "order": ORDER,
    **METHOD_STUDIES,
}
