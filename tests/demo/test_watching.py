"""Work directories: of runs that go on, that have ended, and with files that are damaged."""

import json
import os
import re
import time

import numpy as np
import pytest
from made_run import HOSTILE, metrics_line, write_completions, write_run
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.demo.curves import (
    MOST_POINTS,
    default_columns,
    drawable_columns,
    make_charts,
    read_curve,
    thin_out,
)
from corl_jax.demo.run_parts import list_steps, render_step, render_transcripts
from corl_jax.demo.watching import check_run, describe_progress, find_runs, fingerprint, read_run
from corl_jax.engine.completions import group_samples, read_completions


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("step", "steps", "age", "text"),
    [
        (0, 100, 5, "No step is done yet"),
        (40, 100, 5, "Running: step 40 of 100, the last one 5 seconds ago."),
        (40, 100, 600, "At step 40 of 100; nothing was written for 10 minutes."),
        (40, None, 5 * 86400, "At step 40; nothing was written for 5 days."),
        (100, 100, 5, "Finished at step 100 of 100."),
    ],
)
def test_progress_is_a_sentence(step, steps, age, text):
    assert describe_progress(step, steps, age).startswith(text)


def test_a_run_is_read(folder):
    run = read_run(folder)
    assert len(run.rows) == 40 and run.completion_steps == (40, 20) and not run.problems
    assert run.status.startswith("Running: step 40 of 100")
    assert list_steps(run) == ["step 40", "step 20"]
    # Steps of a minute each: a few minutes without a row are nothing special.
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('"time/step": 1.0', '"time/step": 60.0'))
    assert read_run(folder, now=time.time() + 200).status.startswith("Running")
    later = read_run(folder, now=time.time() + 7200)
    assert "nothing was written for 2 hours" in later.status


def test_samples_show_prompt_rewards_and_advantage(folder):
    html = render_step(folder, "step 20")
    assert html.count("<img") == 8 + 2
    assert "a red circle, number 1" in html and "shapes_soft" in html and "+1.50" in html
    assert "red circle , blue square" in html and "right: <b>two</b>" in html
    assert "Cut at the limit" in html
    # What a policy wrote is text.
    assert HOSTILE not in html and "&lt;img src=x" in html


def test_groups_are_those_of_the_file(folder):
    completions = read_completions(folder, 20)
    groups = group_samples(completions, "image")
    assert [len(group) for group in groups] == [4, 4]
    assert dict(groups[0][3].rewards) == pytest.approx(
        {"shapes_soft": 0.5, "shapes_strict": np.nan}, nan_ok=True
    )
    # A record that comes twice in a step has two groups.
    again = [*completions, *completions]
    assert len(group_samples(again, "text")) == 4


def test_a_run_without_completions_has_its_sheets(folder):
    for path in (folder / "completions").iterdir():
        path.unlink()
    (folder / "samples").mkdir()
    for step in (25, 50):
        Image.new("RGB", (64, 48)).save(folder / "samples" / f"step_{step:06d}_rollout.png")
    run = read_run(folder)
    assert list_steps(run) == ["step 50: rollout", "step 25: rollout"]
    assert "step 25: rollout" in render_step(folder, "step 25: rollout")
    assert "No samples yet" in render_step(folder, None)
    assert "No samples yet" in render_step(folder, "step 99: rollout")


def damage_line(folder):
    path = folder / "completions" / "step_000020.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = '{"task": "image"}'
    path.write_text("\n".join(lines) + "\n")


def lead_out(folder):
    (folder.parent / "secret.png").write_bytes(b"")
    path = folder / "completions" / "step_000020.jsonl"
    row = json.loads(path.read_text().splitlines()[0]) | {"image": "../../secret.png"}
    path.write_text(json.dumps(row) + "\n")


def link_out(folder):
    path = folder / "completions" / "step_000020.jsonl"
    outside = path.rename(folder.parent / "elsewhere.jsonl")
    path.symlink_to(outside)


def damage_picture(folder):
    (folder / "completions" / "step_000020_0_1.png").write_bytes(b"no picture")


def remove_file(folder):
    (folder / "completions" / "step_000020.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (damage_line, "line 3 of .*step_000020.jsonl.* must be a JSON object"),
        (lead_out, "must be the name of a PNG file beside it; got '../../secret.png'"),
        (link_out, "leads out of that folder"),
        (damage_picture, "is not a picture in a known format"),
        (remove_file, "cannot be read"),
    ],
)
def test_damaged_samples_are_one_sentence(folder, damage, text):
    damage(folder)
    with pytest.raises(UserError, match=text):
        render_step(folder, "step 20")


def test_a_damaged_part_does_not_hide_the_others(folder):
    (folder / "config.json").write_text("{")
    run = read_run(folder)
    assert len(run.rows) == 40 and run.completion_steps and len(run.problems) == 1
    assert "config.json" in run.problems[0]

    (folder / "metrics.jsonl").write_text('{"step": "one"}\n')
    (folder / "samples").mkdir()
    (folder / "samples" / "answers_after.json").write_text("[1]")
    run = read_run(folder)
    assert len(run.problems) == 3 and not run.rows and run.completion_steps


def test_half_a_line_is_one_that_is_being_written(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "image/rew')
    assert len(read_run(folder).rows) == 40 and not read_run(folder).problems


def test_the_fingerprint_changes_with_every_new_row_and_sample(folder):
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(41))
    second = fingerprint(folder)
    write_completions(folder, 41)
    assert len({first, second, fingerprint(folder)}) == 3


def test_runs_are_offered_newest_first(tmp_path):
    for age, name in enumerate(("new", "pipeline/stage", "old")):
        run = write_run(tmp_path / "runs" / name, steps=1, completion_steps=())
        os.utime(run / "metrics.jsonl", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "other").mkdir()
    runs = find_runs(tmp_path / "runs")
    assert [path.name for path in runs] == ["new", "stage", "old"]
    with pytest.raises(UserError, match="must have a config.json or metrics.jsonl"):
        check_run(tmp_path / "runs" / "other")
    assert find_runs(tmp_path / "none") == []


def test_curves_are_of_the_columns_that_were_chosen(folder):
    rows = read_run(folder).rows
    assert "alarms" not in drawable_columns(rows) and "time/step" in drawable_columns(rows)
    assert default_columns(rows)[:2] == ["image/reward", "text/reward"]
    assert "time/step" not in default_columns(rows)

    charts = make_charts(rows, ["image/kl", "image/reward", "text/reward", "no/such"], window=5)
    assert [chart.title for chart in charts] == ["Reward", "Distance from the base (KL)"]
    assert charts[0].numbers[0] == ("image/reward", "0.405", "0.6", "0.405", "0.6")
    for chart in charts:
        # The colours of the page, and nothing from a network.
        assert "currentColor" in chart.svg and "<image" not in chart.svg
        assert not re.search(r"(src|href|url)[=(][\"']?https?:", chart.svg)
    # Curves of one chart differ in dashes, for those who do not see the colours apart.
    assert charts[0].svg.count("stroke-dasharray") > charts[1].svg.count("stroke-dasharray")
    steps, values = read_curve(rows, "image/kl")
    assert len(steps) == 39 and steps[0] == 2 and values[-1] == 0.04


def test_smoothing_acts(folder):
    rows = [{"step": step, "loss": float(step % 2)} for step in range(100)]
    rough, smooth = (make_charts(rows, ["loss"], window)[0].svg for window in (1, 20))
    assert rough != smooth and make_charts([], [], 5) == []


def test_long_curves_are_thinned_out():
    kept = thin_out(100_000)
    assert len(kept) <= MOST_POINTS and kept[0] == 0 and kept[-1] == 99_999
    assert list(thin_out(3)) == [0, 1, 2]


def test_transcripts_show_both_sides(folder):
    import base64
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (48, 48)).save(buffer, "PNG")
    given = {"text": "<think>a b</think><answer>two</answer>", "right": True, "well_formed": True}
    entry = {"question": "how many?", "kind": "count", "reference": "two"}
    entry |= {"png": base64.b64encode(buffer.getvalue()).decode(), "greedy": given}
    entry |= {"sampled": given | {"right": False}}
    (folder / "samples").mkdir()
    for side in ("before", "after"):
        (folder / "samples" / f"answers_{side}.json").write_text(json.dumps([entry]))
    html = render_transcripts(read_run(folder))
    for text in ("before, greedy:", "after, sampled:", "a b", "right", "wrong", "count"):
        assert text in html

    (folder / "samples" / "answers_after.json").write_text(json.dumps([entry, entry]))
    with pytest.raises(UserError, match="must have the same questions; got 1 and 2"):
        render_transcripts(read_run(folder))
    (folder / "samples" / "answers_after.json").write_text(json.dumps([entry | {"png": "abcde"}]))
    (folder / "samples" / "answers_before.json").unlink()
    with pytest.raises(UserError, match="must be base64"):
        render_transcripts(read_run(folder))
