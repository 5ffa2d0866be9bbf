"""Trackers: the same curve over several starts, without a step twice, and nothing of the machine in it."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys

import pytest
import toy_stage
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.engine import loop
from corl_jax.engine.hooks import PeriodicHook, Report
from corl_jax.engine.trackers import collection
from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.trackers.tensorboard import TensorBoard


class Shown:
    """What a service has of one run, at all of its starts."""

    def __init__(self):
        self.rows, self.images, self.closed, self.ids = [], [], [], []


class FakeTracker:
    """A service that knows which steps it has only if it is online."""

    is_service = True

    def __init__(self, run, shown, is_online, fail_at=None):
        self.shown, self.fail_at = shown, fail_at
        known = max((step for step, _ in shown.rows), default=-1)
        self.last_step = known if is_online else run.last_step
        shown.ids.append(run.id)

    def rewind(self, steps_done):
        pass

    def write(self, step, row, images, texts):
        if step == self.fail_at:
            raise ConnectionError("no\nnetwork")
        self.shown.rows.append((step, row))
        self.shown.images += [(step, name, pixels.shape) for name, pixels in images.items()]

    def write_evaluation(self, side, step, metrics):
        self.shown.rows.append((step, metrics))

    def flush(self):
        pass

    def close(self, is_complete):
        self.shown.closed.append(is_complete)


@pytest.fixture
def shown(monkeypatch):
    """What the tracker ``fake`` shows; ``start`` runs the toy stage with it."""
    content = Shown()

    def register(**options):
        monkeypatch.setitem(
            collection.TRACKERS, "fake", lambda run: FakeTracker(run, content, **options)
        )

    content.register = register
    register(is_online=False)
    return content


def open_trackers(folder, names=("fake",), every=2, **options):
    folder.mkdir(exist_ok=True)
    options = {"project": "p", "run_name": "n", "config": {"a": 1}} | options
    return Trackers.open(names, every, folder, **options)


def toy_steps(folder, steps, monkeypatch, hooks=(), **options):
    """A generator over the steps of a toy run that has the tracker ``fake``."""
    trackers = open_trackers(folder, **options) if (folder / "config.json").exists() else None
    if trackers is None:
        toy_stage.workdir.open_workdir(folder, {**toy_stage.CONFIG, "steps": steps})
        trackers = open_trackers(folder, **options)
    run_class = loop.TrainingRun
    monkeypatch.setattr(
        loop, "TrainingRun", lambda **values: run_class(**values, trackers=trackers)
    )
    generator = toy_stage.start(folder, steps, hooks=hooks)
    monkeypatch.setattr(loop, "TrainingRun", run_class)
    return generator


def image(steps_done, state):
    return Report({}, {"grid": Image.new("RGB", (6, 4))})


@pytest.mark.parametrize("is_online", [False, True])
def test_a_killed_run_goes_on_with_the_same_curve(tmp_path, shown, monkeypatch, is_online):
    """Killed after step 7, of which 4 are saved; an online service has lost its newest row."""
    shown.register(is_online=is_online)
    hooks = [PeriodicHook(5, image)]
    steps = toy_steps(tmp_path / "w", 12, monkeypatch, hooks)
    assert [next(steps).step for _ in range(7)] == list(range(1, 8))
    steps.close()
    assert [step for step, _ in shown.rows] == [2, 4, 5, 6]
    if is_online:
        shown.rows = shown.rows[:1]

    list(toy_steps(tmp_path / "w", 12, monkeypatch, hooks))
    assert [step for step, _ in shown.rows] == [2, 4, 5, 6, 8, 10, 12]
    assert {name for _, name, _ in shown.images} == {"grid"} and shown.images[-1][2] == (4, 6, 3)
    assert len(set(shown.ids)) == 1

    # What it has is what metrics.jsonl has, also of rows that were added later.
    lines = map(json.loads, (tmp_path / "w" / "metrics.jsonl").read_text().splitlines())
    losses = {line["step"]: line["loss"] for line in lines}
    assert all(row["loss"] == losses[step] for step, row in shown.rows)


def test_a_tracker_that_is_added_has_the_whole_curve(tmp_path, shown, monkeypatch):
    toy_stage.run(tmp_path / "w", 4)
    list(toy_steps(tmp_path / "w", 8, monkeypatch))
    assert [step for step, _ in shown.rows] == [2, 4, 6, 8]
    # In another project it is another run.
    list(toy_steps(tmp_path / "w", 10, monkeypatch, project="q"))
    assert [step for step, _ in shown.rows[4:]] == [2, 4, 6, 8, 10] and len(set(shown.ids)) == 2


def test_a_service_that_fails_does_not_end_the_run(tmp_path, shown, monkeypatch, capsys):
    shown.register(is_online=False, fail_at=6)
    assert len(list(toy_steps(tmp_path / "w", 8, monkeypatch))) == 8
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if "tracker" in line] == [
        "the tracker fake failed after step 4 (ConnectionError: no network); the run goes on without "
        "it, and adds what it lacks when the same command resumes"
    ]
    shown.register(is_online=False)
    list(toy_steps(tmp_path / "w", 10, monkeypatch))
    assert [step for step, _ in shown.rows] == [2, 4, 6, 8, 10]


def test_a_tracker_that_cannot_begin_closes_the_others(tmp_path, shown, monkeypatch):
    def refuse(run):
        raise UserError("no login")

    monkeypatch.setitem(collection.TRACKERS, "wandb", refuse)
    with pytest.raises(UserError, match="no login"):
        open_trackers(tmp_path / "w", ("fake", "wandb"))
    assert shown.closed == [False] and not (tmp_path / "w" / "trackers.json").exists()
    assert open_trackers(tmp_path / "w", ("wandb",), every=0) is not None


def test_numbers_that_are_not_finite_and_paths_are_left_out(tmp_path, shown):
    configs = []
    make = collection.TRACKERS["fake"]
    collection.TRACKERS["fake"] = lambda run: configs.append(run.config) or make(run)
    trackers = open_trackers(tmp_path / "w", config={"init_from": "/home/me/models/J"})
    trackers.write(2, {"a": float("nan"), "b": 1.0})
    trackers.close()
    assert shown.rows == [(2, {"b": 1.0})] and configs == [{"init_from": ".../J"}]
    saved = json.loads((tmp_path / "w" / "trackers.json").read_text())
    assert saved["fake"] | {"id": ""} == {"project": "p", "id": "", "last_step": 2}


def read_events(folder):
    """(step, tag, kind) of every event, and the steps from which older events are hidden."""
    from tensorboardX.proto.event_pb2 import Event

    events, hidden = [], []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.HasField("session_log"):
                hidden.append(event.step)
            for value in event.summary.value:
                events.append((event.step, value.tag, value.WhichOneof("value")))
    return events, hidden


def test_tensorboard_has_config_evaluation_texts_and_hides_what_comes_again(tmp_path):
    for steps_done in (-1, 4):
        tracker = TensorBoard(tmp_path / "tb", {"a": 1})
        tracker.rewind(steps_done)
        assert tracker.last_step == steps_done
        tracker.write(steps_done + 2, {"loss": 1.0}, {}, {"completions": "a\n# b"})
        tracker.write_evaluation("before", 0, {"qa": 0.5})
        tracker.close()
    events, hidden = read_events(tmp_path / "tb")
    assert hidden == [5]
    assert [event[:2] for event in events] == [
        (0, "config/text_summary"), (1, "loss"), (1, "completions/text_summary"),
        (0, "evaluation/qa"), (6, "loss"), (6, "completions/text_summary"), (0, "evaluation/qa"),
    ]  # fmt: skip


REAL = """
import sys
import numpy as np
from pathlib import Path
from corl_jax.engine.trackers.collection import Trackers

name, folder, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = {"steps": 9, "init_from": "/root/secret/model"}
trackers = Trackers.open((name,), 1, folder, project="p", run_name="n", config=config)
trackers.rewind(first - 1, [{"step": step, "loss": float(step)} for step in range(1, first)])
for step in range(first, last + 1):
    pixels = {"grid": np.zeros((4, 4, 3), np.uint8)} if step == 3 else {}
    trackers.write(step, {"loss": float(step)}, pixels, {"completions": "<b>a</b>"} if pixels else {})
if last == 4:
    import os, time
    # Time for what is written every second; then killed, so that nothing is closed.
    time.sleep(2.5)
    os.kill(os.getpid(), 9)
trackers.write_evaluation("after", last, {"qa": 0.5})
trackers.close()
"""


def run_real(name, folder, first, last, **environment):
    """Steps ``first..last`` in a process that prints nothing on stdout; after step 4 it is killed."""
    command = [sys.executable, "-c", REAL, name, str(folder), str(first), str(last)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == (-9 if last == 4 else 0), done.stderr
    assert done.stdout == ""


def wandb_records(path):
    """The records of a file of Weights & Biases, which is a log of LevelDB behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind, part = data[position + 6], data[position + 7 : position + 7 + length]
        position += 7 + length
        parts = part if kind in (1, 2) else parts + part  # whole or first; else more of the same
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(parts))
    return records


def test_wandb_offline(tmp_path):
    """Two starts with one id; the first was killed, so that two of its steps come again."""
    pytest.importorskip("wandb")
    (tmp_path / "w").mkdir()
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_API_KEY": ""}
    for first, last in ((1, 4), (3, 6)):
        run_real("wandb", tmp_path / "w", first, last, **environment)

    paths = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    run_id = json.loads((tmp_path / "w" / "trackers.json").read_text())["wandb"]["id"]
    assert [path.name for path in paths] == [f"run-{run_id}.wandb"] * 2
    curves, texts = [], []
    for path in paths:
        records = wandb_records(path)
        items = [
            {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for record in records
            if record.HasField("history")
        ]
        curves.append([(int(row["_step"]), float(row["loss"])) for row in items])
        texts += [str(record) for record in records]
    assert curves == [[(step, float(step)) for step in steps] for steps in ((1, 2, 3, 4), (5, 6))]
    assert list((tmp_path / "wandb").rglob("grid_3_*.png"))
    (html,) = (tmp_path / "wandb").rglob("completions_3_*.html")
    assert "&lt;b&gt;a&lt;/b&gt;" in html.read_text()
    assert "evaluation/after/qa" in "".join(texts)
    assert_nothing_private("".join(texts), str(tmp_path))


def assert_nothing_private(text, folder):
    """Neither host nor user nor folders of this machine, nor the folder that the config names."""
    words = [socket.gethostname(), getpass.getuser(), "/root/secret", os.getcwd(), folder]
    # The host of a sandbox may be called "vm", which occurs in other words.
    assert not [word for word in words if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]


def test_wandb_without_a_login_says_what_to_do(tmp_path):
    pytest.importorskip("wandb")
    environment = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path)}
    environment |= {"WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path / "none")}
    (tmp_path / "w").mkdir()
    with pytest.raises(AssertionError, match="tracker wandb must be reachable.*wandb login"):
        run_real("wandb", tmp_path / "w", 1, 2, **environment)


def test_trackio_in_a_local_folder(tmp_path):
    pytest.importorskip("trackio")
    (tmp_path / "w").mkdir()
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    for first, last in ((1, 4), (3, 6)):
        run_real("trackio", tmp_path / "w", first, last, **environment)

    (path,) = (tmp_path / "trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "select step, run_name, metrics from metrics order by id"
        ).fetchall()
    run_id = json.loads((tmp_path / "w" / "trackers.json").read_text())["trackio"]["id"]
    assert {name for _, name, _ in rows} == {f"n-{run_id}"}
    values = [(step, json.loads(text)) for step, _, text in rows]
    losses = [(step, row["loss"]) for step, row in values if "loss" in row]
    assert losses == [(step, float(step)) for step in range(1, 7)]
    assert list((tmp_path / "trackio").rglob("*.png")) and values[-1][1] == {"evaluation/qa": 0.5}
    # The file itself, which has the config as well.
    files = [file.read_bytes().decode("latin-1") for file in path.parent.glob(f"{path.name}*")]
    assert "init_from" in "".join(files)
    assert_nothing_private("".join(files), str(tmp_path))
