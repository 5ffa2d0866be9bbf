"""What a run reads beside its config, and whether it is still what the run began with.

In: the policies of ``init_from``, the training records, and the newest manifest of a work
directory. Out: their identities as JSON for new manifests; an error where one has changed, unless
the user accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.data.mixing.mixture import whole_source
from corl_jax.data.sources.base import RecordSource
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint
from corl_jax.engine.checkpoints.manifest import Manifest, read_manifest
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.workdir import Workdir
from corl_jax.porting.policy_source import PolicySource
from corl_jax.stages.config import ResumeConfig
from corl_jax.stages.finished_run import check_length


def describe_inputs(policies: Sequence[PolicySource], records: RecordSource) -> dict[str, Any]:
    """Identities of policies and records as JSON.

    Weights in a folder are read as a whole; of images that records name, both ends are.
    """
    # Which records are selected is part of the config, so the fingerprint is of all of them.
    source = whole_source(records)
    inputs = {
        "init_from": [policy.identity() for policy in policies],
        "records": {"count": len(source), "digest": source.fingerprint()},
    }
    # As it is read back from a manifest: tuples become lists.
    return json.loads(json.dumps(inputs))


def check_resumable(
    workdir: Workdir,
    steps: int,
    inputs: Mapping[str, Any],
    policies: Sequence[PolicySource],
    resume: ResumeConfig,
    accept_records: bool = False,
) -> list[str]:
    """Checks that a run can go on in a work directory as it began; a new one always can.

    Args:
      workdir: that is there; nothing in it is changed.
      steps: of the run, by the config.
      inputs: from ``describe_inputs``.
      policies: of ``init_from``.
      resume: what the user accepts.
      accept_records: whether the user accepts other training records, ``config.data.changed``.

    Returns:
      sentences for the user about what has changed and was accepted.

    Raises:
      UserError: more steps are done than ``steps``, or an input has changed.
    """
    done = check_length(workdir, steps)

    # Older manifests have no inputs; resuming from one says so. A complete run reads none of them.
    is_complete = done == steps and not resume.fallback
    manifest = _newest_manifest(workdir)
    if is_complete or manifest is None or not manifest.inputs:
        return []
    notes = []
    before, now = manifest.inputs["init_from"], inputs["init_from"]
    for policy, was, today in zip(policies, before, now, strict=True):
        if was != today:
            label = f"the policy {policy.name!r} of config.init_from"
            consequence = "the KL term then measures from the policy of today"
            flag = "resume.accept_init_from=True"
            notes.append(_accept(label, was, today, flag, resume.accept_init_from, consequence))

    was, today = manifest.inputs["records"], inputs["records"]
    if was != today:
        consequence = "its steps then have other records than in an unbroken run"
        notes.append(
            _accept(
                "the set of training records of config.data",
                was,
                today,
                "data.changed=accept",
                accept_records,
                consequence,
            )
        )
    return notes


def _accept(
    label: str,
    was: Mapping[str, Any],
    today: Mapping[str, Any],
    flag: str,
    is_accepted: bool,
    consequence: str,
) -> str:
    """A sentence about a changed input, or the error if it is not accepted."""
    change = f"{label} had {_text(was)} when the run began and has {_text(today)} today"
    if not is_accepted:
        raise UserError(
            f"{change}; bring the former back, or go on with --config.{flag} ({consequence})"
        )
    return f"{change}, which is accepted"


def _text(identity: Mapping[str, Any]) -> str:
    """Such as ``step 100, digest 0123456789abcdef0123``."""
    return ", ".join(f"{name} {str(value)[:20]}" for name, value in identity.items())


def _newest_manifest(workdir: Workdir) -> Manifest | None:
    """The newest manifest that can be read; None if there is none."""
    for step in reversed(saved_steps(workdir.checkpoints)):
        try:
            return read_manifest(workdir.checkpoints / str(step))
        except DamagedCheckpoint:
            # Whoever restores this step refuses it, or falls back to the one before.
            continue
    return None
