"""What a work directory says of a run before anything is built: whether there are steps to do.

A run that has ended is left as it is, to the last byte, whatever it is started with again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.workdir import Workdir, find_workdir
from corl_jax.report.page import REPORT_FILE
from corl_jax.stages.config import has_evaluation, without_resume
from corl_jax.stages.evaluate_run import is_evaluated


def finished_run(
    config: Mapping[str, Any], workdir: str | Path, may_differ: Sequence[str]
) -> str | None:
    """A line for the user where a run is complete, or None where there is something to do.

    Args:
      config: of a stage; of a run that is there, its values were checked when it began.
      workdir: folder or address; it need not exist.
      may_differ: keys of the config that may differ from the saved one.

    Raises:
      UserError: more steps are done than the config asks for.
    """
    found = find_workdir(workdir, without_resume(config), may_differ)
    if found is None:
        return None
    steps, done = config["steps"], check_length(found, config["steps"])
    # Falling back to an earlier checkpoint trains again, although all steps seem to be done.
    if done < steps or config["resume"]["fallback"] or not _is_reported(config, found):
        return None
    return (
        f"workdir {found} is already at step {done} of {steps}, and nothing is changed; raise "
        f"config.steps to train on, or see {found.path / REPORT_FILE}"
    )


def check_length(workdir: Workdir, steps: int) -> int:
    """The steps that are done in a work directory.

    Raises:
      UserError: they are more than ``steps``.
    """
    done = max(saved_steps(workdir.checkpoints), default=0)
    if done > steps:
        raise UserError(
            f"workdir {workdir} is already at step {done}; got config.steps={steps}. Raise "
            f"config.steps to train on, write its page with corl report --workdir {workdir}, or "
            "choose another --workdir"
        )
    return done


def _is_reported(config: Mapping[str, Any], workdir: Workdir) -> bool:
    """Whether the page of a run is there, and the evaluation after its last step if it has one."""
    is_complete = not has_evaluation(config) or is_evaluated(workdir, config["steps"])
    return is_complete and (workdir.path / REPORT_FILE).exists()
