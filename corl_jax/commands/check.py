"""Checks all that could keep a run from starting, as training does, and trains nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument("--config", required=True, help="such as configs/own_records.py")
    parser.add_argument("--workdir", help="of the run (default: that of training)")
    parser.add_argument(
        "changes", nargs="*", metavar="config.KEY=VALUE", help="changes to the config"
    )


def run(args: argparse.Namespace) -> int:
    """Prints what a start would train with; nothing is compiled or written."""
    for change in args.changes:
        if not change.startswith("config.") or "=" not in change:
            raise UserError(
                f"a change to the config must be config.KEY=VALUE; got {change!r}. Write for example "
                "config.data.source=photos"
            )

    # Imported here, so that help is quick.
    from absl import flags

    from corl_jax.core.runtime import set_up_jax
    from corl_jax.main import parse_command_line

    workdir = [] if args.workdir is None else [f"--workdir={args.workdir}"]
    config, path, _ = parse_command_line(
        ["check", f"--config={args.config}", *workdir, *(f"--{change}" for change in args.changes)]
    )
    flags.FLAGS.mark_as_parsed()
    if config["stage"] == "pipeline":
        raise UserError("a check is of one stage; got a pipeline. Check the configs of its stages")
    set_up_jax()

    from corl_jax.stages.start_checks import check_start

    start = check_start(config, path)
    records = len(start.stage.train_records)
    print(f"ready: {records} training records, the policy {config['init_from'] or 'at random'}")
    for line in describe(config):
        print(f"  {line}")
    print(f"Training begins with compilation, and writes to {path}")
    return 0


def describe(config: Mapping[str, Any]) -> list[str]:
    """What a step of reinforcement learning has, task by task; nothing of other stages."""
    if config["stage"] != "rl":
        return []
    lines = []
    for task in ("image", "text"):
        rollout, weights = config["rl"]["rollout"], config["rewards"][task]
        prompts = rollout[f"{task}_prompts"]
        named = ", ".join(f"{name} x {weight:g}" for name, weight in weights.items()) or "none"
        if not prompts:
            lines.append(f"{task}: not trained; rewards of probes and evaluations: {named}")
            continue
        lines.append(
            f"{task}: {prompts} prompts of at most {rollout[f'{task}_prompt_length']} tokens, "
            f"{rollout['group_size']} samples each; rewards: {named}"
        )
    return lines
