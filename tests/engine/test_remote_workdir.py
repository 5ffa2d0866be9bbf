"""A run at an address, with a local folder as its bucket: resuming after the host is lost, and
errors.
"""

from __future__ import annotations

import shutil
import threading
import time

import fsspec
import pytest
import toy_stage
from etils import epath
from helpers import metric_rows
from PIL import Image
from test_loop import newest_checkpoint

from corl_jax.core.errors import UserError
from corl_jax.engine import remote_workdir, workdir
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.hooks import PeriodicHook, Report
from corl_jax.engine.remote_workdir import RemoteWorkdir, remote_folder
from corl_jax.report.page import write_report

ADDRESS = "gs://bucket/run"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that stands for ``ADDRESS``. Local copies start empty, as on a new host."""
    monkeypatch.setattr(workdir, "remote_folder", lambda address: epath.Path(tmp_path / "bucket"))
    return tmp_path / "bucket"


def make_image(steps_done, state):
    return Report({}, {"grid": Image.new("RGB", (4, 4), (steps_done, 0, 0))})


def test_the_bucket_has_every_file_of_a_run(bucket):
    results = toy_stage.run(ADDRESS, 10, hooks=[PeriodicHook(3, make_image)])
    assert [result.step for result in results] == list(range(1, 11))
    assert [row["step"] for row in metric_rows(bucket)] == list(range(1, 11))
    assert saved_steps(bucket / "checkpoints") == [8, 10]
    assert len(list((bucket / "samples").glob("*.png"))) == 4 and (bucket / "config.json").exists()
    toy_stage.run(bucket.parent / "folder", 10, hooks=[PeriodicHook(3, make_image)])
    assert metric_rows(bucket) == metric_rows(bucket.parent / "folder")
    # The run is complete, so nothing happens.
    assert toy_stage.run(ADDRESS, 10) == []


def wait_until_saved(path, step):
    """Returns once the thread beside the loop has completed ``step``."""
    for _ in range(3000):
        if step in saved_steps(path / "checkpoints"):
            return
        time.sleep(0.01)
    raise AssertionError("not saved")


@pytest.mark.parametrize("when", ["between two checkpoints", "while one is written"])
def test_the_bucket_is_enough_to_resume_bit_for_bit(bucket, monkeypatch, when):
    """The host is lost with all its files; ``snapshot`` is the bucket at that moment."""
    uninterrupted, snapshot = bucket.parent / "uninterrupted", bucket.parent / "snapshot"
    original_save = Checkpointer.save

    def save(checkpointer, step, *args):
        is_new = not snapshot.exists() and not uninterrupted.exists()
        if when == "while one is written" and step == 8 and is_new:
            checkpointer.wait()
            shutil.copytree(bucket, snapshot)
        original_save(checkpointer, step, *args)

    monkeypatch.setattr(Checkpointer, "save", save)
    for result in toy_stage.start(ADDRESS, 11):
        if when == "between two checkpoints" and result.step == 6:
            wait_until_saved(bucket, 4)
            shutil.copytree(bucket, snapshot)
    toy_stage.run(uninterrupted, 11)

    # A new host finds the snapshot.
    shutil.rmtree(bucket)
    shutil.move(snapshot, bucket)
    assert saved_steps(bucket / "checkpoints") == [4]
    assert [row["step"] for row in metric_rows(bucket)][-1] == (
        8 if when == "while one is written" else 4
    )
    assert [result.step for result in toy_stage.run(ADDRESS, 11)] == list(range(5, 12))
    assert metric_rows(bucket) == metric_rows(uninterrupted) and newest_checkpoint(
        bucket
    ) == newest_checkpoint(uninterrupted)


def test_listings_of_a_bucket_are_not_cached():
    remote_folder(ADDRESS)
    assert fsspec.config.conf["gcs"] == {"use_listings_cache": False}


def test_only_changed_files_are_uploaded(tmp_path, monkeypatch):
    folder = tmp_path / "remote"
    (folder / "tb").mkdir(parents=True)
    (folder / "tb" / "events").write_text("old")
    (folder / "checkpoints" / "4").mkdir(parents=True)
    (folder / "checkpoints" / "4" / "state").write_text("large")

    remote_path = epath.Path(folder)
    uploads, original_write = [], type(remote_path).write_bytes

    def write_bytes(path, data):
        uploads.append(path.name)
        return original_write(path, data)

    monkeypatch.setattr(type(remote_path), "write_bytes", write_bytes)
    remote = RemoteWorkdir(remote_path)
    remote.pull()
    assert (remote.local / "tb" / "events").read_text() == "old"
    assert not (remote.local / "checkpoints").exists()

    # New files once, config.json last, and none that is only half written.
    (remote.local / "config.json").write_text("{}")
    (remote.local / "rows").write_text("1")
    (remote.local / "rows.part").write_text("half")
    remote.push()
    remote.push()
    assert uploads == ["rows", "config.json"]

    # The one file that has changed.
    (remote.local / "rows").write_text("1\n2")
    remote.push()
    assert uploads == ["rows", "config.json", "rows"]
    assert (folder / "rows").read_text() == "1\n2"


def test_bad_addresses_and_folders_are_refused(bucket):
    with pytest.raises(UserError, match=r"gcloud storage cp --recursive gs://bucket/run \."):
        write_report(ADDRESS)
    for address in ("gs://bucket", "gs://bucket/", "s3://bucket/run", "http://host/run"):
        with pytest.raises(UserError, match=r"must be gs://BUCKET/FOLDER or a local folder"):
            remote_folder(address)
    bucket.mkdir()
    (bucket / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and has no config.json"):
        workdir.open_workdir(ADDRESS, {})
    with pytest.raises(UserError, match="does not exist on every process"):
        workdir.join_workdir(ADDRESS)


def test_a_bucket_that_cannot_be_written_is_an_error(bucket, monkeypatch):
    opened = workdir.open_workdir(ADDRESS, {})

    def refuse(path, data):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(type(epath.Path(bucket)), "write_bytes", refuse)
    with pytest.raises(
        UserError, match=r"bucket cannot be written \(PermissionError: 403 Forbidden\)"
    ):
        opened.push()


def test_the_error_for_an_unreachable_address_says_what_access_needs(monkeypatch):
    def refuse(path):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", refuse)
    with pytest.raises(
        UserError,
        match=r"gs://bucket/run cannot be reached \(ImportError.*corl_jax\[gcs\].*gcloud auth",
    ):
        workdir.open_workdir(ADDRESS, {})


def test_a_bucket_that_gives_no_answer_is_one_line(monkeypatch):
    class SlowFolder:
        def __truediv__(self, name):
            return self

        def exists(self):
            threading.Event().wait(5)

    monkeypatch.setattr(remote_workdir, "CONTACT_SECONDS", 0.1)
    monkeypatch.setattr(workdir, "remote_folder", lambda address: SlowFolder())
    message = "workdir gs://bucket/run cannot be reached .*no answer within 0.1 seconds.* a network"
    with pytest.raises(UserError, match=message) as error:
        workdir.check_reachable(ADDRESS)
    assert "\n" not in str(error.value)
    workdir.check_reachable("a/local/folder")
