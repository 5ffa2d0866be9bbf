"""A run at an address, whose bucket is a folder here: what survives the loss of the host, and what is refused."""

from __future__ import annotations

import shutil

import fsspec
import pytest
import toy_stage
from etils import epath
from PIL import Image
from test_loop import final, rows

from corl_jax.core.errors import UserError
from corl_jax.engine import workdir
from corl_jax.engine.checkpoint import Checkpointer, saved_steps
from corl_jax.engine.hooks import Every, Report
from corl_jax.engine.remote_workdir import RemoteWorkdir, remote_folder
from corl_jax.report.page import write_report

ADDRESS = "gs://bucket/run"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder in which ``ADDRESS`` lies; the twins begin empty every time, as on a new host."""
    monkeypatch.setattr(workdir, "remote_folder", lambda address: epath.Path(tmp_path / "bucket"))
    return tmp_path / "bucket"


def look(done, state):
    return Report({}, {"grid": Image.new("RGB", (4, 4), (done, 0, 0))})


def test_a_run_lies_whole_in_its_bucket(bucket):
    results = toy_stage.run(ADDRESS, 10, hooks=[Every(3, look)])
    assert (
        [row["step"] for row in rows(bucket)]
        == [result.step for result in results]
        == list(range(1, 11))
    )
    assert saved_steps(bucket / "checkpoints") == [8, 10]
    assert len(list((bucket / "samples").glob("*.png"))) == 4 and (bucket / "config.json").exists()
    toy_stage.run(bucket.parent / "folder", 10, hooks=[Every(3, look)])
    assert rows(bucket) == rows(bucket.parent / "folder")
    assert toy_stage.run(ADDRESS, 10) == []  # complete: nothing happens


@pytest.mark.parametrize("when", ["between two checkpoints", "while one is written"])
def test_what_the_bucket_holds_is_enough_to_go_on_bit_for_bit(bucket, monkeypatch, when):
    """The host is gone with all it had; ``lost`` is the bucket as it was at that moment."""
    whole, lost, save = bucket.parent / "whole", bucket.parent / "lost", Checkpointer.save

    def copying(keeper, step, *rest):
        if (
            when == "while one is written"
            and step == 8
            and not lost.exists()
            and not whole.exists()
        ):
            shutil.copytree(bucket, lost)
        save(keeper, step, *rest)

    monkeypatch.setattr(Checkpointer, "save", copying)
    going = toy_stage.start(ADDRESS, 11)
    for result in going:
        if when == "between two checkpoints" and result.step == 6:
            shutil.copytree(bucket, lost)
    toy_stage.run(whole, 11)
    shutil.rmtree(bucket)
    shutil.move(lost, bucket)
    assert saved_steps(bucket / "checkpoints") == [4]
    assert [row["step"] for row in rows(bucket)][-1] == (8 if when == "while one is written" else 4)
    assert [result.step for result in toy_stage.run(ADDRESS, 11)] == list(range(5, 12))
    assert rows(bucket) == rows(whole) and final(bucket) == final(whole)


def test_what_other_hosts_write_to_a_bucket_is_seen():
    remote_folder(ADDRESS)
    assert fsspec.config.conf["gcs"] == {
        "use_listings_cache": False
    }  # gcsfs would remember what it once listed


def test_only_what_changed_is_sent(tmp_path, monkeypatch):
    (tmp_path / "there" / "tb").mkdir(parents=True)
    (tmp_path / "there" / "tb" / "events").write_text("old")
    (tmp_path / "there" / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "there" / "checkpoints" / "4" / "state").write_text("large")
    remote = epath.Path(tmp_path / "there")
    mirror, sent, write = RemoteWorkdir(remote), [], type(remote).write_bytes
    monkeypatch.setattr(
        type(remote),
        "write_bytes",
        lambda path, data: (sent.append(path.name), write(path, data))[1],
    )
    mirror.pull()
    assert (mirror.local / "tb" / "events").read_text() == "old" and not (
        mirror.local / "checkpoints"
    ).exists()
    (mirror.local / "config.json").write_text("{}")
    (mirror.local / "rows").write_text("1")
    (mirror.local / "rows.part").write_text("half")
    mirror.push()
    mirror.push()
    assert sent == ["rows", "config.json"]  # what says that a run is there comes last
    (mirror.local / "rows").write_text("1\n2")
    mirror.push()
    assert (
        sent == ["rows", "config.json", "rows"]
        and (tmp_path / "there" / "rows").read_text() == "1\n2"
    )


def test_places_that_are_none(bucket):
    with pytest.raises(UserError, match=r"gcloud storage cp --recursive gs://bucket/run \."):
        write_report(ADDRESS)
    for address in ("gs://bucket", "gs://bucket/", "s3://bucket/run", "http://host/run"):
        with pytest.raises(UserError, match=r"expected gs://BUCKET/FOLDER or a folder"):
            remote_folder(address)
    bucket.mkdir()
    (bucket / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and has no config.json"):
        workdir.open_workdir(ADDRESS, {})
    with pytest.raises(UserError, match="is not seen by every process"):
        workdir.joined_workdir(ADDRESS)


def test_a_bucket_that_cannot_be_written_is_told(bucket, monkeypatch):
    opened = workdir.open_workdir(ADDRESS, {})

    def refuse(path, data):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(type(epath.Path(bucket)), "write_bytes", refuse)
    with pytest.raises(
        UserError, match=r"bucket cannot be written \(PermissionError: 403 Forbidden\)"
    ):
        opened.publish()


def test_an_address_that_cannot_be_reached_is_told_with_what_it_needs(monkeypatch):
    def refuse(path):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", refuse)
    with pytest.raises(
        UserError,
        match=r"gs://bucket/run cannot be reached \(ImportError.*corl_jax\[gcs\].*gcloud auth",
    ):
        workdir.open_workdir(ADDRESS, {})
