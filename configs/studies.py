"""Studies that compare recipes on the embedded world, for ``corl study NAME``.

Each study tests a claim of a paper. An arm is a list of commands, and its last command writes
``eval.json``. Every policy is evaluated in the same way. All runs are short: fewer steps than in
the recipes, and the same number in every run.
"""

from __future__ import annotations

from corl_jax.studies.comparison import Command, Expectation, Study

METRICS = ("t2i_strict@w=1.5", "t2i_soft@w=1.5", "qa_greedy", "qa_sampled_strict")
"""Metrics of images and of answers."""
PICTURES, ANSWERS = "t2i_strict@w=1.5", "qa_sampled_strict"
"""Those of them that claims about images and about answers are held against."""
QUESTION_KIND_METRICS = (
    "qa_greedy/count",
    "qa_greedy/relation",
    "qa_greedy",
    "qa_sampled_strict",
)
"""Metrics of two kinds of questions, and of all answers."""
STEPS = 60
"""Steps of a run. Where tasks alternate, the steps of each task."""


def train_command(
    config: str, *changes: str, steps: int = STEPS, argument: str = "", name: str = "train"
) -> Command:
    """A training run of ``configs/CONFIG.py``.

    Args:
      config: name of the config file, without ``.py``.
      *changes: further flags of the run, ``--config.KEY=VALUE``.
      steps: of the run.
      argument: of the config file, with its colon, such as ``":tiny,rewards=cycle"``.
      name: of the command, and so of its folder.
    """
    flags = (f"--config=configs/{config}.py{argument}", "--workdir={out}", "--config.seed={seed}")
    return Command(name, ("corl_jax.main", *flags, f"--config.steps={steps}", *changes))


def rl_command(
    config: str, *changes: str, steps: int = STEPS, argument: str = "", name: str = "train"
) -> Command:
    """``train_command`` for a config of reinforcement learning.

    These configs evaluate the policy before and after training. Here that is switched off, because
    ``evaluated`` adds one evaluation for all arms.
    """
    return train_command(
        config, "--config.evals.num_records=0", *changes, steps=steps, argument=argument, name=name
    )


def refine_command(init_from: str) -> Command:
    """The second stage of CoRL, refined RL, on images. It starts from the policy ``init_from``."""
    return rl_command("refined_t2i", f"--config.init_from={init_from}", name="refine")


def evaluated(*commands: Command, policy: str = "{before}") -> tuple[Command, ...]:
    """An arm: the commands, then an evaluation of the policy.

    Args:
      *commands: that train the policy.
      policy: to evaluate. The default is the folder of the last command.
    """
    flags = ("--policy", policy, "--guidance-scale", "1.5", "--out", "{out}/eval.json")
    arguments = ("corl_jax.commands.cli", "evaluate", *flags, "--overwrite")
    return *commands, Command("measure", arguments, trains=False)


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
REWARDS = Study(
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
    "rewards": REWARDS,
    "transfer": TRANSFER,
}
