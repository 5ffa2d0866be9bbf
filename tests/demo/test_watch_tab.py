"""What the page shows of a run: whole, while it goes on, and to whom."""

import json

import pytest
from made_run import metrics_line, write_completions, write_run

gr = pytest.importorskip("gradio", reason="needs pip install 'corl_jax[demo]'")


@pytest.fixture
def tab():
    """Functions that show and refresh a run, by the names of the outputs."""
    from corl_jax.demo import watch_tab

    with gr.Blocks(analytics_enabled=False):
        widgets = watch_tab._add_widgets(gr.Dropdown())
    names = {widget: name for name, widget in vars(widgets).items()}

    def by_name(outputs):
        return {names[widget]: value for widget, value in outputs.items()}

    class Tab:
        @staticmethod
        def show(*args):
            return by_name(watch_tab.show_run(widgets, *args))

        @staticmethod
        def refresh(*args):
            return by_name(watch_tab.refresh_run(widgets, *args))

    return Tab


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_only_what_is_offered_is_shown_where_others_reach_the_page(tab, run, tmp_path):
    secret = write_run(tmp_path / "secret")
    shown = tab.show(str(secret), 5, [str(run)])
    assert "must be one of those offered" in shown["status"] and shown["charts"] == ""
    assert shown["seen"] is None
    assert "step 40" in tab.show(str(run), 5, [str(run)])["status"]
    assert "step 40" in tab.show(str(secret), 5, None)["status"]


@pytest.mark.parametrize(("name", "text"), [("", "got none"), ("no/such", "which has neither")])
def test_what_is_no_run_is_a_sentence(tab, name, text):
    shown = tab.show(name, 5, None)
    assert text in shown["status"] and 'role="alert"' in shown["status"]


def test_a_refresh_shows_what_is_new_and_keeps_what_was_chosen(tab, run):
    name = str(run)
    seen = tab.show(name, 5, None)["seen"]
    columns = ["time/step"]

    # Nothing new: only the sentence, since its time goes on.
    assert set(tab.refresh(name, 5, columns, "step 40", seen)) == {"status"}

    # A new row changes the curves that were chosen, and no more.
    with (run / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(41))
    outputs = tab.refresh(name, 5, columns, "step 20", seen)
    assert "samples" not in outputs and outputs["columns"].value == columns
    assert "Time per step" in outputs["charts"] and "Reward" not in outputs["charts"]
    seen = outputs["seen"]

    # A new step: who looks at the last one follows, who looks at another one stays.
    write_completions(run, 41)
    assert tab.refresh(name, 5, columns, "step 40", seen)["step"].value == "step 41"
    assert tab.refresh(name, 5, columns, "step 20", seen)["step"].value == "step 20"

    # A name that was typed and not shown yet is left alone.
    assert tab.refresh("other", 5, columns, "step 20", seen) == {
        "status": {"__type__": "update"},
    }


def test_a_run_that_begins_gets_its_curves_with_the_first_row(tab, tmp_path):
    run = write_run(tmp_path / "new", steps=0, completion_steps=())
    shown = tab.show(str(run), 5, None)
    assert "No step is done yet" in shown["status"] and "no metrics yet" in shown["charts"]
    assert "No samples yet" in shown["samples"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(1))
    outputs = tab.refresh(str(run), 5, [], None, shown["seen"])
    assert "Reward" in outputs["charts"] and "Running: step 1 of 100" in outputs["status"]


def test_a_run_that_is_removed_while_it_is_watched_is_a_sentence(tab, run):
    seen = tab.show(str(run), 5, None)["seen"]
    for path in (run / "config.json", run / "metrics.jsonl"):
        path.unlink()
    assert "which has neither" in tab.refresh(str(run), 5, [], "step 40", seen)["status"]


def test_numbers_of_a_hostile_file_do_no_harm(tab, run):
    row = {"step": 1, "image/reward": 1e300, "<script>": 1.0, "image/reward/<b>": -1e300}
    row |= {r"image/reward/$\frac{$": 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    shown = tab.show(str(run), 5, None)
    charts = tab.refresh(str(run), 5, ["<script>", "image/reward/<b>"], "", ("x", "", []))
    assert "<b>" not in shown["charts"] and set(charts) == {"status"}
