"""What arms of studies are made of: training runs, and the evaluation that all arms end with."""

from __future__ import annotations

from corl_jax.studies.comparison import Command

METRICS = ("t2i_strict@w=1.5", "t2i_soft@w=1.5", "qa_greedy", "qa_sampled_strict")
"""Metrics of images and of answers."""
PICTURES, ANSWERS = "t2i_strict@w=1.5", "qa_sampled_strict"
"""Those of them that claims about images and about answers are held against."""
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


def evaluated(
    *commands: Command, policy: str = "{before}", flags: tuple[str, ...] = ()
) -> tuple[Command, ...]:
    """An arm: the commands, then an evaluation of the policy.

    Args:
      *commands: that train the policy.
      policy: to evaluate. The default is the folder of the last command.
      flags: of ``corl evaluate`` beside the usual ones.
    """
    usual = ("--policy", policy, "--guidance-scale", "1.5", "--out", "{out}/eval.json")
    arguments = ("corl_jax.commands.cli", "evaluate", *usual, "--overwrite", *flags)
    return *commands, Command("measure", arguments, trains=False)
