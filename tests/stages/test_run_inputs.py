"""What a run began with: pinned in its manifests, compared when it goes on."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import toy_stage

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity, read_manifest
from corl_jax.engine.workdir import open_workdir
from corl_jax.porting.policy_source import open_policy_source
from corl_jax.stages.config import ResumeConfig, read_block, without_resume
from corl_jax.stages.run_inputs import check_resumable, describe_inputs


@dataclasses.dataclass
class Records:
    """A source of ``count`` records with a fingerprint."""

    count: int
    text: str

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("no record may be read")

    def text_record(self, index):
        raise AssertionError("no record may be read")

    def fingerprint(self):
        return self.text


@pytest.fixture(scope="module")
def base(dot_policy_folder, tmp_path_factory):
    """A folder with a policy."""
    folder = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(dot_policy_folder, folder)
    return folder


@pytest.fixture(scope="module")
def started(base, tmp_path_factory):
    """A work directory with steps 2 and 4, and its policies and records."""
    workdir = open_workdir(tmp_path_factory.mktemp("run") / "w", {"steps": 4})
    policies, records = [open_policy_source(str(base))], Records(96, "a" * 64)
    inputs = describe_inputs(policies, records)
    stage = toy_stage.ToyStage()
    checkpointer = Checkpointer(workdir.checkpoints, RunIdentity("toy", {}, {}, inputs))
    for step in (2, 4):
        checkpointer.save(step, stage.init_state(), stage.data_iterator())
    checkpointer.close()
    return workdir, policies, records


def check(started, steps=6, policies=None, records=None, accept_records=False, **resume):
    workdir, first_policies, first_records = started
    policies = policies or first_policies
    inputs = describe_inputs(policies, records or first_records)
    return check_resumable(workdir, steps, inputs, policies, ResumeConfig(**resume), accept_records)


def test_unchanged_inputs_go_on(started):
    workdir, *_ = started
    assert check(started) == []
    inputs = read_manifest(workdir.checkpoints / "4").inputs
    assert list(inputs["init_from"][0]) == ["digest"]
    assert inputs["records"] == {"count": 96, "digest": "a" * 64}


@pytest.mark.parametrize("records", [Records(97, "a" * 64), Records(96, "b" * 64)])
def test_changed_records_are_refused_unless_they_are_accepted(started, records):
    message = (
        r"training records of config.data had count 96, digest a{20} when the run began and has "
        rf"count {len(records)}, digest {records.text[:20]} today; .*config.data.changed=accept"
    )
    with pytest.raises(UserError, match=message) as error:
        check(started, records=records)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message):
        check(started, records=records, accept_init_from=True)
    (note,) = check(started, records=records, accept_records=True)
    assert note.endswith("today, which is accepted")


def test_a_policy_that_changed_is_refused_unless_it_is_accepted(started, base):
    weights = base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = [open_policy_source(str(base))]
    message = (
        f"the policy '{base}' of config.init_from had digest .* when the run began and has digest "
        ".* today; bring the former back, or go on with --config.resume.accept_init_from=True"
    )
    with pytest.raises(UserError, match=message):
        check(started, policies=changed)
    assert len(check(started, policies=changed, accept_init_from=True)) == 1
    # A complete run reads neither; a hurt one does.
    assert check(started, steps=4, policies=changed) == []
    with pytest.raises(UserError, match=message):
        check(started, steps=4, policies=changed, fallback=True)
    weights.write_bytes(content)
    assert check(started) == []


def test_fewer_steps_than_are_done_are_refused(started):
    with pytest.raises(UserError, match="is already at step 4; got config.steps=3. Raise config"):
        check(started, steps=3)
    assert check(started, steps=4) == []


def test_identities_of_policies(started, base, tmp_path):
    """A work directory has its step, a model of the hub its revision."""
    workdir, (policy,), _ = started
    checkpoint = dataclasses.replace(policy, workdir=workdir.path, janus_folder=None)
    manifest = read_manifest(workdir.checkpoints / "4")
    assert checkpoint.identity() == {"step": 4, "digest": manifest.params_digest}
    assert dataclasses.replace(policy, revision="5f3a").identity() == {"revision": "5f3a"}

    # A folder elsewhere with the same weights is the same policy.
    shutil.copytree(base, tmp_path / "elsewhere")
    assert open_policy_source(str(tmp_path / "elsewhere")).identity() == policy.identity()


def test_flags_of_a_start_are_no_part_of_the_config():
    config = {"steps": 4, "resume": {"fallback": True}, "data": {"changed": "accept", "limit": 3}}
    saved = {"steps": 4, "data": {"changed": "refuse", "limit": 3}}
    assert without_resume(config) == without_resume(saved) == saved
    with pytest.raises(UserError, match="config.resume.fallback must be True or False; got 'yes'"):
        read_block(ResumeConfig, vars(ResumeConfig()) | {"fallback": "yes"}, "resume")
