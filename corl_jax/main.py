"""Trains from a config: reads the command line, opens the work directory, runs the stage.

    python -m corl_jax.main --config=configs/unified.py[:ARG] [--workdir=DIR|gs://BUCKET/DIR]
        [--config.KEY=VALUE]

On every host of a TPU slice add --distributed; for several processes without such a slice
--coordinator=HOST:PORT --processes=N --process=I.

Bad input ends with one line on stderr and exit code 2, on all processes of a run.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from corl_jax.core.errors import UserError
from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.core.processes.ending import run_program
from corl_jax.core.renamed_keys import renamed_key_hint
from corl_jax.core.runtime import set_up_jax

# What errors suggest.
EXAMPLE = "--config=configs/unified.py"


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
    # A set of flags of its own, so that a process can parse several command lines.
    values = flags.FlagValues()
    config_file = config_flags.DEFINE_config_file(
        "config", None, "a config and its argument", values, sys_argv=argv
    )
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

    # What is not a flag is a mistake: a value without its key, or a forgotten dash.
    config, arguments = _read_config(values, config_file, argv)
    if arguments:
        raise UserError(
            f"unexpected argument {arguments[0]!r}; expected {EXAMPLE} [--workdir=DIR] "
            "[--config.KEY=VALUE]"
        )
    if config is None:
        raise UserError(f"--config is missing; expected for example {EXAMPLE}")

    # Without a flag about other processes this one is alone.
    config_path = config_flags.get_config_filename(values["config"]).partition(":")[0]
    default_workdir = f"runs/{pathlib.Path(config_path).stem}"
    hosts = DistributedConfig(coordinator.value, processes.value, process.value)
    is_single = hosts == DistributedConfig() and not distributed.value
    return config, workdir.value or default_workdir, None if is_single else hosts


def _read_config(
    values: flags.FlagValues, config_file: flags.FlagHolder, argv: list[str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The config with its changes (None without ``--config``), and arguments that are no flags."""
    # Both the config file and absl run here, and raise errors of many classes.
    try:
        program_and_arguments = values(argv)
        if config_file.value is None:
            return None, program_and_arguments[1:]
        return json.loads(config_file.value.to_json_best_effort()), program_and_arguments[1:]
    except UserError:
        raise
    except OSError:
        path = config_flags.get_config_filename(values["config"])
        raise UserError(
            f"the config file {path!r} cannot be read; expected for example {EXAMPLE}"
        ) from None
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"the config has no such key: {_error_text(error)}{_renamed_key_hint(argv)}"
        ) from None
    except (flags.Error, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise UserError(
            f"{_error_text(error)}; expected for example {EXAMPLE} --config.seed=1"
        ) from None


def _renamed_key_hint(argv: Sequence[str]) -> str:
    """What the first ``--config.KEY`` of ``argv`` that was renamed is called today, or nothing."""
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
    if {"-h", "--help"} & set(argv[1:]):
        print(__doc__.strip())
        return 0

    return run_program(lambda: train_from_command_line(argv))


def train_from_command_line(argv: list[str]) -> int:
    """Runs one config to its end; returns 0.

    Raises:
      UserError: bad input, or an error in the middle of a run that a user can mend.
    """
    config, workdir, hosts = parse_command_line(argv)
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
