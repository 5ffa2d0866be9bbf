"""The experiments that compare recipes on the embedded world, for ``corl study NAME``.

An arm is a list of commands; the last one leaves ``eval.json``. Each study asks what one of the papers claims.
"""

from __future__ import annotations

from corl_jax.evals.study import Leg, Study

BOTH = ("t2i_strict@w=1.5", "t2i_soft@w=1.5", "qa_greedy", "qa_sampled_strict")
"""Pictures and answers."""
KINDS = ("qa_greedy/count", "qa_greedy/relation", "qa_greedy", "qa_sampled_strict")
NOT_MEASURED = "--config.evals.n=0"


def train(config: str, *changes: str, name: str = "train", after: bool = False, argument: str = "") -> Leg:
    """A run of a config; ``after`` starts it from the leg before."""
    begun = ("--config.init_from={before}",) if after else ()
    place = (f"--config=configs/{config}.py{argument}", "--workdir={out}", "--config.seed={seed}")
    return Leg(name, ("corl_jax.main", *place, *begun, *changes))


def measure(policy: str) -> Leg:
    """An evaluation by itself, the same as at the end of a run."""
    line = ("corl_jax.commands.cli", "evaluate", "--policy", policy, "--out", "{out}/eval.json", "--overwrite")
    return Leg("measure", line, trains=False)


def merged(*experts: str) -> tuple[Leg, Leg]:
    """The Gaussian merge of the policies of earlier arms, measured."""
    line = ("corl_jax.commands.cli", "merge", "--base", "tiny", "--experts", *experts, "--out", "{out}/policy")
    return Leg("merge", line, trains=False), measure("{before}/policy")


def kl(schedule: str, start: float, end: float) -> Leg:
    """The unified run with another KL coefficient, of both tasks."""
    values = {"schedule": schedule, "start": start, "end": end}
    changes = (f"--config.kl.{task}.{key}={value}" for task in ("image", "text") for key, value in values.items())
    return train("unified", *changes)


PARADIGMS = Study(
    "What does one policy gain from learning both tasks at once?",
    "CoRL, pilot study: learning one task alone hardly helps it and costs the other; both at once is best on both.",
    {
        "base": (measure("tiny"),),
        "sft": (train("cold_sft"), measure("{before}")),
        "pictures_alone": (train("separate_t2i"),),
        "answers_alone": (train("separate_und"),),
        "merged": merged("{pictures_alone}", "{answers_alone}"),
        "by_turns": (train("cycle"),),
        "unified": (train("unified"),),
    },
    BOTH,
)

KL = Study(
    "Does a coefficient that changes do better than a constant one?",
    "OThink-MR1: GRPO-D, falling and then rising, beats the best constant coefficient.",
    {
        "none": (kl("constant", 0.0, 0.0),),
        "constant_0.01": (kl("constant", 0.01, 0.01),),
        "constant_0.03": (kl("constant", 0.03, 0.03),),
        "linear": (kl("linear", 0.0, 0.03),),
        "grpo_d": (kl("grpo_d", 0.0, 0.03),),
        "adaptive": (kl("adaptive", 0.01, 0.0),),
    },
    BOTH,
)

GUIDANCE = Study(
    "Which distribution should the log-probs of pictures be taken under?",
    "CoRL's code samples with guidance and scores without; nothing in the paper compares the two.",
    {
        "matched": (train("unified"),),
        "conditional": (train("unified", "--config.rl.logprob_guidance=conditional"),),
        "none": (train("unified", "--config.rl.guidance=1.0"),),
    },
    BOTH,
)

STAGES = Study(
    "What do the stages add to each other?",
    "CoRL, table of paradigms: unified and then refined is best; supervised and then refined comes close in answers.",
    {
        "base": (measure("tiny"),),
        "sft": (train("cold_sft"), measure("{before}")),
        "unified": (train("unified"),),
        "refined": (train("refined_t2i", "--config.init_from=tiny"),),
        "sft_refined": (train("cold_sft"), train("refined_t2i", name="refine", after=True)),
        "unified_refined": (train("unified", NOT_MEASURED), train("refined_t2i", name="refine", after=True)),
    },
    BOTH,
)

REWARDS = Study(
    "Which reward of pictures teaches most?",
    "CoRL, table of rewards: cycle consistency gives more than a matching score, both together the most.",
    {
        name: (train("unified", argument=f":tiny,rewards={names}"),)
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
        "base": (measure("tiny"),),
        "count_rl": (train("counting"), measure("{before}")),
        "count_sft": (train("cold_sft", "--config.data.questions=('count',)"), measure("{before}")),
        "relation_rl": (train("geometry"), measure("{before}")),
        "relation_sft": (train("cold_sft", "--config.data.questions=('relation',)"), measure("{before}")),
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
