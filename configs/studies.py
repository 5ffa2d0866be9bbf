"""The experiments that compare recipes on the embedded world, for ``corl study NAME``.

An arm is a list of commands; the last one leaves ``eval.json``. Each study asks what one of the papers claims. Every
policy is measured alike, and every run is short: fewer steps than the recipes', the same for all.
"""

from __future__ import annotations

from corl_jax.studies.comparison import Command, Study

BOTH = ("t2i_strict@w=1.5", "t2i_soft@w=1.5", "qa_greedy", "qa_sampled_strict")
"""Pictures and answers."""
KINDS = ("qa_greedy/count", "qa_greedy/relation", "qa_greedy", "qa_sampled_strict")
STEPS = 60
"""Of a run; where tasks take turns, of each."""


def train(
    config: str, *changes: str, steps: int = STEPS, argument: str = "", name: str = "train"
) -> Command:
    """A command that runs a config to its end."""
    place = (f"--config=configs/{config}.py{argument}", "--workdir={out}", "--config.seed={seed}")
    return Command(name, ("corl_jax.main", *place, f"--config.steps={steps}", *changes))


def reinforce(
    config: str, *changes: str, steps: int = STEPS, argument: str = "", name: str = "train"
) -> Command:
    """``train`` without the evaluations before and after, which configs of reinforcement learning have."""
    return train(
        config, "--config.evals.num_records=0", *changes, steps=steps, argument=argument, name=name
    )


def refine(start: str) -> Command:
    """The second stage, on pictures."""
    return reinforce("refined_t2i", f"--config.init_from={start}", name="refine")


def measured(*commands: Command, policy: str = "{before}") -> tuple[Command, ...]:
    """An arm: its commands, and the evaluation of the policy that the last one leaves."""
    line = ("corl_jax.commands.cli", "evaluate", "--policy", policy, "--guidance", "1.5")
    arguments = (*line, "--out", "{out}/eval.json", "--overwrite")
    return *commands, Command("measure", arguments, trains=False)


def merged(*experts: str) -> tuple[Command, ...]:
    """The Gaussian merge of the policies of earlier arms, each as its training left it."""
    line = (
        "corl_jax.commands.cli",
        "merge",
        "--base",
        "tiny",
        "--experts",
        *experts,
        "--out",
        "{out}/policy",
    )
    return measured(Command("merge", line, trains=False), policy="{before}/policy")


def kl(schedule: str, start: float, end: float) -> tuple[Command, ...]:
    """The unified run with another KL coefficient, of both tasks."""
    values = {"schedule": schedule, "start": start, "end": end}
    changes = (
        f"--config.kl.{task}.{key}={value}"
        for task in ("image", "text")
        for key, value in values.items()
    )
    return measured(reinforce("unified", *changes))


def supervised(kind: str, *changes: str) -> tuple[Command, ...]:
    """Solutions of one kind of question, as many as reinforcement learning asks, and no pictures."""
    return measured(
        train(
            "cold_sft",
            f"--config.data.question_kinds=('{kind}',)",
            "--config.sft.image_weight=0.",
            *changes,
        )
    )


PARADIGMS = Study(
    "What does one policy gain from learning both tasks at once?",
    "CoRL, pilot study: learning one task alone hardly helps it and costs the other; both at once is best on both.",
    {
        "base": measured(policy="tiny"),
        "sft": measured(train("cold_sft")),
        "pictures_alone": measured(reinforce("separate_t2i")),
        "answers_alone": measured(reinforce("separate_und")),
        "merged": merged("{pictures_alone/train}", "{answers_alone/train}"),
        "by_turns": measured(reinforce("cycle", steps=2 * STEPS)),
        "unified": measured(reinforce("unified")),
    },
    BOTH,
)

KL = Study(
    "Does a coefficient that changes do better than a constant one?",
    "OThink-MR1: GRPO-D, falling and then rising, beats the best constant coefficient.",
    {
        "none": kl("constant", 0.0, 0.0),
        "constant_0.01": kl("constant", 0.01, 0.01),
        "constant_0.03": kl("constant", 0.03, 0.03),
        "linear": kl("linear", 0.0, 0.03),
        "grpo_d": kl("grpo_d", 0.0, 0.03),
        "adaptive": kl("adaptive", 0.01, 0.0),
    },
    BOTH,
)

GUIDANCE = Study(
    "Which distribution should the log-probs of pictures be taken under?",
    "CoRL's code samples with guidance and scores without; nothing in the paper compares the two.",
    {
        "matched": measured(reinforce("unified")),
        "conditional": measured(reinforce("unified", "--config.rl.log_probs.guidance=conditional")),
        "none": measured(reinforce("unified", "--config.rl.rollout.guidance_scale=1.0")),
    },
    BOTH,
)

STAGES = Study(
    "What do the stages add to each other?",
    "CoRL, table of paradigms: unified and then refined is best; supervised and then refined comes close in answers.",
    {
        "base": measured(policy="tiny"),
        "sft": measured(train("cold_sft")),
        "unified": measured(reinforce("unified")),
        "refined": measured(refine("tiny")),
        "sft_refined": measured(refine("{sft/train}")),
        "unified_refined": measured(refine("{unified/train}")),
    },
    BOTH,
)

REWARDS = Study(
    "Which reward of pictures teaches most?",
    "CoRL, table of rewards: cycle consistency gives more than a matching score, both together the most.",
    {
        name: measured(reinforce("unified", argument=f":tiny,rewards={names}"))
        for name, names in {
            "exact": "shapes_strict",
            "soft": "shapes_soft",
            "cycle": "cycle",
            "matching": "matching",
            "cycle_and_matching": "cycle+matching",
        }.items()
    },
    BOTH,
)

TRANSFER = Study(
    "Does what is learnt on one kind of question carry over to another?",
    "OThink-MR1: reinforcement learning carries over from counting to geometry and back, supervised learning does not.",
    {
        "base": measured(policy="tiny"),
        "count_rl": measured(reinforce("counting")),
        "count_sft": supervised("count", "--config.data.limit=100"),
        "relation_rl": measured(reinforce("geometry")),
        "relation_sft": supervised("relation"),
    },
    KINDS,
)

STUDIES = {
    "paradigms": PARADIGMS,
    "kl": KL,
    "guidance": GUIDANCE,
    "stages": STAGES,
    "rewards": REWARDS,
    "transfer": TRANSFER,
}
