"""The door: flags to config to stage to loop.

    python -m corl_jax.main --config=configs/unified.py[:ARG] [--workdir=DIR] [--config.KEY=VALUE]

In: flags. Out: a work directory. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags, logging
from ml_collections import config_flags

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import set_up_jax

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, with its argument after a colon")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; an existing one resumes (default: runs/NAME)")


def parse(argv: list[str]) -> tuple[dict, pathlib.Path]:
    """The config as plain JSON values, and the work directory.

    Raises:
      UserError: an unknown flag, key, file or argument.
    """
    try:
        rest = FLAGS(argv)
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        raise UserError(" ".join(str(error.args[0] if error.args else error).split())) from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; expected --config=FILE [--workdir=DIR] [--config.KEY=VALUE]")
    if CONFIG.value is None:
        raise UserError("--config is missing; expected for example --config=configs/unified.py")
    name = pathlib.Path(config_flags.get_config_filename(FLAGS["config"]).partition(":")[0]).stem
    return json.loads(CONFIG.value.to_json_best_effort()), pathlib.Path(WORKDIR.value or f"runs/{name}")


def main(argv: list[str] | None = None) -> int:
    """Runs one config to its end; the exit code."""
    try:
        config, workdir = parse(sys.argv if argv is None else argv)
        set_up_jax()
        logging.set_verbosity(logging.WARNING)
        from corl_jax.stages.run import run  # after the flags: an error there should not wait for the libraries

        run(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
