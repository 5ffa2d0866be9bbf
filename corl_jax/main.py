"""The door: flags to config to stage to loop.

    python -m corl_jax.main --config=configs/unified.py[:ARG] [--workdir=DIR|gs://BUCKET/DIR] [--config.KEY=VALUE]

On every host of a TPU slice add --distributed; else --coordinator=HOST:PORT --processes=N --process=I.

In: flags. Out: a work directory. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags, logging
from ml_collections import config_flags

from corl_jax.core.errors import UserError
from corl_jax.core.processes import DistributedConfig, connect_processes
from corl_jax.core.runtime import set_up_jax

EXAMPLE = "--config=configs/unified.py"


def parse(argv: list[str]) -> tuple[dict, str, DistributedConfig | None]:
    """The config as plain JSON values, the work directory, and where the other processes are, if there are any.

    Raises:
      UserError: an unknown flag, key, file or argument.
    """
    values = flags.FlagValues()
    file = config_flags.DEFINE_config_file(
        "config", None, "a config and its argument", values, sys_argv=argv
    )
    place = flags.DEFINE_string(
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
    try:
        rest = values(argv)
        config = None if file.value is None else json.loads(file.value.to_json_best_effort())
    except UserError:
        raise
    except OSError:
        wanted = config_flags.get_config_filename(values["config"])
        raise UserError(
            f"the config file {wanted!r} cannot be read; expected for example {EXAMPLE}"
        ) from None
    except (AttributeError, KeyError) as error:
        raise UserError(f"the config has no such key: {_words(error)}") from None
    except (flags.Error, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise UserError(
            f"{_words(error)}; expected for example {EXAMPLE} --config.seed=1"
        ) from None
    if len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}; expected {EXAMPLE} [--workdir=DIR] [--config.KEY=VALUE]"
        )
    if config is None:
        raise UserError(f"--config is missing; expected for example {EXAMPLE}")
    name = pathlib.Path(config_flags.get_config_filename(values["config"]).partition(":")[0]).stem
    hosts = DistributedConfig(coordinator.value, processes.value, process.value)
    alone = hosts == DistributedConfig() and not distributed.value
    return config, place.value or f"runs/{name}", None if alone else hosts


def _words(error: BaseException) -> str:
    """What a foreign error says, on one line; some wrap another one."""
    said: object = error
    while isinstance(said, BaseException):
        said = said.args[0] if said.args else type(said).__name__
    return " ".join(str(said).split())


def main(argv: list[str] | None = None) -> int:
    """Runs one config to its end; the exit code."""
    argv = sys.argv if argv is None else argv
    if {"-h", "--help"} & set(argv[1:]):
        print(__doc__.strip())
        return 0
    try:
        config, workdir, hosts = parse(argv)
        flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, which keep their defaults
        set_up_jax()
        if hosts is not None:
            connect_processes(hosts)
        logging.set_verbosity(logging.WARNING)
        # after the flags: an error there should not wait for the libraries
        from corl_jax.pipelines.run_pipeline import run_pipeline
        from corl_jax.stages.preflight import exclusive_workdir
        from corl_jax.stages.run import run

        with exclusive_workdir(workdir):
            (run_pipeline if config["stage"] == "pipeline" else run)(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
