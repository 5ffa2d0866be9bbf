"""The study of the order of tasks (Omni-Thinker), for ``corl study order``."""

from __future__ import annotations

import itertools

from corl_jax.configs.study_arms import PICTURES, evaluated, rl_command
from corl_jax.studies.comparison import Command, Study
from corl_jax.studies.task_order import TaskOrder

TASK_STEPS = 40
"""Steps of one task in the study of their order, which has three times as many in all."""
TASKS = {
    "draw": ("separate_t2i", "--config.rl.rollout.image_prompts=6"),
    "open": (
        "separate_und",
        "--config.data.qa_type=OE",
        "--config.rl.rollout.text_prompts=24",
    ),
    "choice": (
        "separate_und",
        "--config.data.qa_type=MC",
        "--config.rl.rollout.text_prompts=12",
    ),
}
"""Task to its config and flags. Two thirds of the questions are open, one is multiple choice."""
TASK_MEAN = "mean of tasks"
TASK_COLUMNS = {
    "draw": PICTURES,
    "open": "qa_sampled_strict_oe",
    "choice": "qa_sampled_strict_mc",
}


def task_command(task: str, *changes: str) -> Command:
    """A training run of one task alone; its folder has the name of the task."""
    config, *flags = TASKS[task]
    return rl_command(config, *flags, *changes, steps=TASK_STEPS, name=task)


def sequence_arm(first: str, *rest: str) -> tuple[Command, ...]:
    """An arm: tasks one after the other, each from the policy that the one before has left.

    The first is the run of the arm that trains this task alone.
    """
    commands = []
    source = f"{{{first}/{first}}}"
    for task in rest:
        commands.append(task_command(task, f"--config.init_from={source}"))
        source = "{before}"
    return evaluated(*commands)


def all_tasks_command(config: str, image_prompts: int, text_prompts: int) -> Command:
    """A training run of all tasks, with the steps and the prompts of three runs of one task."""
    flags = (
        f"--config.rl.rollout.image_prompts={image_prompts}",
        f"--config.rl.rollout.text_prompts={text_prompts}",
    )
    return rl_command(config, *flags, steps=len(TASKS) * TASK_STEPS)


SEQUENCES = {tasks: "_".join(tasks) for tasks in itertools.permutations(TASKS)}

# Every arm but the base and the single tasks has 120 steps, 240 captions and 1440 questions.
ORDER = Study(
    "Does the order in which tasks are trained matter, and can backward transfer tell which is best?",
    "Omni-Thinker: the least forgettable task first is better than all at once and than in turns.",
    {
        "base": evaluated(policy="tiny"),
        **{task: evaluated(task_command(task)) for task in TASKS},
        **{arm: sequence_arm(*tasks) for tasks, arm in SEQUENCES.items()},
        "joint": evaluated(all_tasks_command("unified", 2, 12)),
        "by_turns": evaluated(all_tasks_command("cycle", 4, 24)),
    },
    tuple(TASK_COLUMNS.values()),
    means={TASK_MEAN: tuple(TASK_COLUMNS.values())},
    order=TaskOrder(
        before="base",
        alone={task: task for task in TASKS},
        columns=TASK_COLUMNS,
        sequences=SEQUENCES,
        rivals=("joint", "by_turns"),
        score=TASK_MEAN,
    ),
)
