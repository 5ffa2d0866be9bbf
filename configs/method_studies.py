"""Studies of methods beyond the two papers; ``configs/studies.py`` puts them beside the others.

What acts on drawing alone is trained on drawing alone, which costs half: then answers tell what
that does to them. A method that comes with several changes is compared with all but one of them.
"""

from __future__ import annotations

from corl_jax.configs.study_arms import (
    ANSWERS,
    METRICS,
    PICTURES,
    STEPS,
    evaluated,
    rl_command,
)
from corl_jax.studies.comparison import Command, Expectation, Study

PLAN_FLAGS = ("--plan", "18")
"""Evaluates with plans of the length of ``configs/plan.py``."""


ENTROPY_TARGET = 0.65
"""Nats per image token: the entropy of the base at the guidance scale of training."""


def drawing(*changes: str, argument: str = "") -> tuple[Command, ...]:
    """An arm: drawing alone, with these changes of ``configs/separate_t2i.py``."""
    return evaluated(rl_command("separate_t2i", *changes, argument=argument))


def planning(*changes: str) -> tuple[Command, ...]:
    """An arm: drawing alone behind plans, with these changes of ``configs/plan.py``."""
    return evaluated(rl_command("plan", *changes), flags=PLAN_FLAGS)


PLAN = Study(
    "Does a policy that plans a picture in words draw better?",
    "T2I-R1: a plan before every picture, trained with the picture by one reward, is better than "
    "drawing alone, and better than training the picture alone.",
    {
        "base": evaluated(policy="tiny"),
        "base_with_plans": evaluated(policy="tiny", flags=PLAN_FLAGS),
        "no_plan": drawing(),
        "plan": planning(),
        # The default weighs all tokens alike, which leaves a plan the smaller part.
        "plan_half": planning("--config.rl.plan.weighting=share", "--config.rl.plan.share=0.5"),
        "plan_untrained": planning(
            "--config.rl.plan.weighting=share", "--config.rl.plan.share=0.0"
        ),
    },
    METRICS,
    (
        Expectation("plan", "above", "no_plan", PICTURES),
        Expectation("plan", "above", "plan_untrained", PICTURES),
        Expectation("plan_half", "above", "no_plan", PICTURES),
    ),
)

# RL-PLUS divides by no standard deviation, clips nothing and has no KL term.
RL_PLUS = (
    "--config.rl.advantage.normalization=none",
    "--config.rl.loss.clip=none",
    "--config.kl.image.schedule=none",
    "--config.kl.image.end=0.0",
)

CREDIT = Study(
    "Which tokens of a picture should have its advantage, and what keeps them various?",
    "STAGE, GCPO: weights among image tokens are better than one advantage for all. ReasonGen-R1: a "
    "coefficient that holds the entropy helps. RL-PLUS: a solution from outside in every group helps.",
    {
        "uniform": drawing(),
        "contrast": drawing("--config.rl.loss.image_credit=contrast"),
        "third": drawing("--config.rl.loss.image_credit=third"),
        # The rate is ten times ReasonGen-R1's, since 60 updates have to reach the same limit.
        "entropy_target": drawing(
            f"--config.rl.loss.entropy_target.image={ENTROPY_TARGET}",
            "--config.rl.loss.entropy_rate=5e-4",
        ),
        "own_pictures": drawing(*RL_PLUS),
        "real_picture": drawing(*RL_PLUS, "--config.rl.external.image=record_image"),
    },
    METRICS,
    (
        Expectation("contrast", "above", "uniform", PICTURES),
        Expectation("third", "above", "uniform", PICTURES),
        Expectation("entropy_target", "above", "uniform", PICTURES),
        Expectation("real_picture", "above", "own_pictures", PICTURES),
    ),
)

STRICT = Study(
    "How should advantages be scaled where a reward is 0 or 1?",
    "MaxRL is better than GRPO also in the first attempt; Pass@k training keeps it as good.",
    {
        "group": drawing(argument=":tiny,rewards=shapes_strict"),
        "maxrl": drawing(
            "--config.rl.advantage.normalization=maxrl", argument=":tiny,rewards=shapes_strict"
        ),
        "pass_at_k": drawing(
            "--config.rl.advantage.normalization=pass_at_k", argument=":tiny,rewards=shapes_strict"
        ),
    },
    METRICS,
    (
        Expectation("maxrl", "above", "group", PICTURES),
        Expectation("pass_at_k", "like", "group", PICTURES),
    ),
)


def updates_arm(clip: str) -> tuple[Command, ...]:
    """An arm: four updates per rollout, each on another quarter of its prompts."""
    flags = ("--config.updates_per_step=4", "--config.rl.rollout.minibatches=4")
    return evaluated(rl_command("unified", *flags, f"--config.rl.loss.clip={clip}"))


UPDATES = Study(
    "What should bound the ratio where a rollout has several updates?",
    "CISPO, GSPO and SAPO, each by its paper: better than PPO's clip of every token.",
    {
        "one_update": evaluated(rl_command("unified")),
        **{clip: updates_arm(clip) for clip in ("ppo", "cispo", "gspo", "sapo")},
    },
    METRICS,
    tuple(
        Expectation(clip, "above", "ppo", metric)
        for clip in ("cispo", "gspo", "sapo")
        for metric in (PICTURES, ANSWERS)
    ),
)


def rewards_arm(image_rewards: str, *changes: str) -> tuple[Command, ...]:
    """An arm: the unified run with these rewards of images, which need no parser of pictures."""
    argument = f":tiny,rewards={image_rewards}"
    return evaluated(rl_command("unified", *changes, argument=argument))


EVERY_REWARD = "cycle+matching+prompt_likelihood"
REWARDS = Study(
    "Which reward of its own reading should a policy have, and how are several added up?",
    "GDPO: rewards that are normalized one by one and then added are better than their sum. SUDER and "
    "GvU: the likelihood of the prompt behind the picture is reward enough for drawing, and that of the "
    "picture behind the text for answers.",
    {
        "base": evaluated(policy="tiny"),
        "cycle": rewards_arm("cycle"),
        "matching": rewards_arm("matching"),
        "likelihood": rewards_arm("prompt_likelihood"),
        "likelihood_both_ways": rewards_arm(
            "prompt_likelihood", "--config.rewards.text.picture_likelihood=1.0"
        ),
        "sum": rewards_arm(EVERY_REWARD),
        "gdpo": rewards_arm(
            EVERY_REWARD, "--config.rl.advantage.multi_objective_aggregation=normalize_then_sum"
        ),
    },
    METRICS,
    (
        Expectation("gdpo", "above", "sum", PICTURES),
        # Answers have two rewards in every arm: that they are right, and their format.
        Expectation("gdpo", "above", "sum", ANSWERS),
        Expectation("likelihood", "above", "base", PICTURES),
        Expectation("likelihood", "above", "matching", PICTURES),
        Expectation("likelihood_both_ways", "above", "likelihood", ANSWERS),
    ),
)

QUESTIONS = Study(
    "What else than right answers should questions train?",
    "Perception-R1: a reward for what the thinking says of the picture makes more answers right. "
    "LMM-R1: questions about texts, before those about pictures, do.",
    {
        "base": evaluated(policy="tiny"),
        "accuracy": evaluated(rl_command("separate_und")),
        "perception": evaluated(rl_command("perception")),
        "text_first": evaluated(
            rl_command("text_first", steps=STEPS // 2, name="texts"),
            rl_command("separate_und", "--config.init_from={before}", steps=STEPS // 2),
        ),
    },
    ("qa_greedy", "qa_sampled_strict", "qa_greedy_mc", "qa_greedy_oe", PICTURES),
    (
        Expectation("perception", "above", "accuracy", "qa_greedy"),
        Expectation("text_first", "above", "accuracy", "qa_greedy"),
    ),
)

CHECK = Study(
    "Does judging its own pictures teach a policy?",
    "Janus-Pro-R1: a reward for saying truly whether the own picture matches improves drawing and "
    "understanding.",
    {
        "draw": drawing(),
        "draw_and_check": drawing(
            "--config.rl.check.prompts=8", "--config.rl.check.reward=shapes_strict"
        ),
    },
    (*METRICS, "qa_greedy/existence"),
    (
        Expectation("draw_and_check", "above", "draw", PICTURES),
        Expectation("draw_and_check", "above", "draw", "qa_greedy"),
    ),
)

METHOD_STUDIES = {
    "plan": PLAN,
    "check": CHECK,
    "credit": CREDIT,
    "strict": STRICT,
    "updates": UPDATES,
    "rewards": REWARDS,
    "questions": QUESTIONS,
}
