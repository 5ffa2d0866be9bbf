"""Trains from a config: reads the command line, opens the work directory, runs the stage.

    python -m corl_jax.main --config=FILE[:ARG] [--workdir=DIR] [--config.KEY=VALUE ...]

    --config=FILE[:ARG]    the config: one of the list below, or a file of your own that starts from
                           one (from corl_jax.configs import unified). What ARG may be, such as
                           janus_pro_1b,lora=32, is in the head of the file
    --config.KEY=VALUE     changes a value, as often as you like. Tuples are written
                           --config.evals.guidance_scales="(1.0, 2.0)"; a reward that the config
                           does not have is added by its weight, --config.rewards.text.numeric=1
    --config=FILE --help   lists the keys of that config, their values and what they mean
    --workdir=DIR          folder of the run, or gs://BUCKET/FOLDER (default: runs/NAME of the config).
                           The same command resumes the run that is there

    python -m corl_jax.main --config=configs/unified.py --config.steps=100 --config.seed=1
    python -m corl_jax.main --config=configs/unified.py:janus_pro_1b --config.data.source=photos

On every host of a TPU slice add --distributed; for several processes without such a slice
--coordinator=HOST:PORT --processes=N --process=I.

Bad input ends with one line on stderr and exit code 2, on all processes of a run.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corl_jax.core.accelerators import leave_out_missing_accelerators
from corl_jax.core.config_files import load_config, package_configs
from corl_jax.core.errors import UserError
from corl_jax.core.processes.ending import run_program

if TYPE_CHECKING:
    from absl import flags
    from ml_collections import ConfigDict

    from corl_jax.core.processes.connection import DistributedConfig

# What errors suggest.
EXAMPLE = "--config=configs/unified.py"

REWARD_WEIGHT = re.compile(r"--?config\.((?:train\.\w+\.)?rewards\.(?:image|text))\.(\w+)(?:=|$)")
"""A flag that sets the weight of a reward; in a pipeline, that of one of its stages."""


def parse_command_line(argv: list[str]) -> tuple[dict[str, Any], str, DistributedConfig | None]:
    """Reads the command line and the config file that it names.

    Args:
      argv: name of the program, then its flags.

    Returns:
      the config as plain JSON values; the work directory; and how this process finds the others,
      or None where there are none.

    Raises:
      UserError: an unknown flag, key, file or argument.
    """
    from absl import flags

    from corl_jax.core.processes.connection import DistributedConfig

    # A set of flags of its own, so that a process can parse several command lines.
    values = flags.FlagValues()
    workdir = flags.DEFINE_string(
        "workdir", None, "folder of the run, or gs://BUCKET/FOLDER", flag_values=values
    )
    distributed = flags.DEFINE_bool(
        "distributed", False, "join the hosts of a TPU slice or Slurm job", values
    )
    coordinator = flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where JAX cannot find it", values
    )
    processes = flags.DEFINE_integer(
        "processes", 0, "processes of the run, with --coordinator", flag_values=values
    )
    process = flags.DEFINE_integer(
        "process", -1, "number of this process, with --coordinator", flag_values=values
    )

    # The config's own flags are those of its keys.
    file, others = _config_file(argv)
    config, arguments = _read_config(values, load_config(file), others)
    # What is not a flag is a mistake: a value without its key, or a forgotten dash.
    if arguments:
        raise UserError(
            f"unexpected argument {arguments[0]!r}; expected {EXAMPLE} [--workdir=DIR] "
            "[--config.KEY=VALUE]"
        )

    # Without a flag about other processes this one is alone.
    default_workdir = f"runs/{pathlib.Path(file.partition(':')[0]).stem}"
    hosts = DistributedConfig(coordinator.value, processes.value, process.value)
    is_single = hosts == DistributedConfig() and not distributed.value
    return config, workdir.value or default_workdir, None if is_single else hosts


def _config_file(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of ``--config``, of which the last one counts, and the other arguments.

    Raises:
      UserError: there is none.
    """
    file, others = "", []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            others.append(argument)
            continue
        file = value if equals else next(arguments, "")
        if not file or file.startswith("-"):
            raise UserError(f"--config must be a file; got {file!r}. Write for example {EXAMPLE}")
    if not file:
        raise UserError(f"--config is missing; expected for example {EXAMPLE}")
    return file, others


def _read_config(
    values: flags.FlagValues, config: ConfigDict, argv: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """The config with the changes of ``argv``, and arguments that are no flags."""
    from absl import flags
    from ml_collections import config_flags

    # absl and ml_collections raise errors of many classes.
    try:
        _add_reward_weights(config, argv)
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        arguments = values(argv)[1:]
        return json.loads(holder.value.to_json_best_effort()), arguments
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"the config has no such key: {_error_text(error)}{_renamed_key_hint(argv)}"
        ) from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(
            f"{_error_text(error)}; expected for example {EXAMPLE} --config.seed=1"
        ) from None


def _add_reward_weights(config: ConfigDict, argv: Sequence[str]) -> None:
    """Makes room for weights of rewards that flags set and the config does not have.

    Whether there is such a reward is found out with all other values, once those of the user are
    registered.
    """
    for match in filter(None, map(REWARD_WEIGHT.match, argv)):
        block: Any = config
        for key in match[1].split("."):
            block = block[key]
        if match[2] not in block:
            with block.unlocked():
                block[match[2]] = 0.0


def _renamed_key_hint(argv: Sequence[str]) -> str:
    """What the first ``--config.KEY`` of ``argv`` that was renamed is called today, or nothing."""
    from corl_jax.core.renamed_keys import renamed_key_hint

    # ml_collections does not say which flag it failed at. Former keys do not exist any more, so
    # any of them fails.
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        hint = renamed_key_hint(name.removeprefix("config."))
        if argument.startswith("-") and name.startswith("config.") and hint:
            return hint
    return ""


def _error_text(error: BaseException) -> str:
    """The text of a library's error on one line, without its class, which tells a user nothing."""
    # Some errors of ml_collections have another error as their only argument.
    text: object = error
    while isinstance(text, BaseException):
        text = text.args[0] if text.args else type(text).__name__
    return " ".join(str(text).split())


def main(argv: list[str] | None = None) -> int:
    """Runs one config to its end and returns the exit code."""
    argv = sys.argv if argv is None else argv

    # absl's own help would list the flags of all libraries.
    others = [argument for argument in argv if argument not in ("-h", "--help")]
    if others != argv:
        return run_program(lambda: print_help(others))
    return run_program(lambda: train_from_command_line(argv))


def print_help(argv: list[str]) -> int:
    """Prints what the flags are, or the keys of the config that ``argv`` names; returns 0.

    Raises:
      UserError: as for a run.
    """
    if not any(argument.lstrip("-").startswith("config") for argument in argv[1:]):
        summaries = package_configs()
        width = max(map(len, summaries))
        lines = [f"    {name:{width}}  {summary}" for name, summary in summaries.items()]
        print("\n".join([__doc__.strip(), "", "Configs:", "", *lines]))
        return 0

    config, _, _ = parse_command_line(argv)
    from corl_jax.stages.config_keys import describe_keys

    print(describe_keys(config))
    return 0


def train_from_command_line(argv: list[str]) -> int:
    """Runs one config to its end; returns 0.

    Raises:
      UserError: bad input, or an error in the middle of a run that a user can mend.
    """
    leave_out_missing_accelerators()
    config, workdir, hosts = parse_command_line(argv)

    from absl import flags, logging

    from corl_jax.core.processes.connection import connect_processes
    from corl_jax.core.runtime import set_up_jax

    # Grain reads absl's own flags, which keep their defaults.
    flags.FLAGS.mark_as_parsed()

    # Settings of JAX and the other processes come before anything touches a device.
    set_up_jax()
    if hosts is not None:
        connect_processes(hosts)
    logging.set_verbosity(logging.WARNING)

    # Imported late, so that an error in the flags does not wait for the libraries.
    from corl_jax.pipelines.run_pipeline import run_pipeline
    from corl_jax.stages.preflight import exclusive_workdir
    from corl_jax.stages.run import run

    # A pipeline runs several stages, each with a work directory of its own.
    with exclusive_workdir(workdir):
        if config["stage"] == "pipeline":
            run_pipeline(config, workdir)
        else:
            run(config, workdir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
