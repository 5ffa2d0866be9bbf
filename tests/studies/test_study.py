"""Studies: commands run once and in order, tables over seeds, and the shipped studies are valid."""

from __future__ import annotations

import json
import math

import pytest

from corl_jax.commands.cli import main
from corl_jax.commands.study import load_study
from corl_jax.configs.studies import STUDIES as SHIPPED
from corl_jax.core.errors import UserError
from corl_jax.studies.comparison import Command, Study, make_table, plan_runs, render_markdown

COMMAND = """
import json, pathlib, sys
out, value = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with open("calls.txt", "a") as calls:
    calls.write(f"{out.parent.name}/{out.name} {' '.join(sys.argv[3:])}\\n")
if value < 0 and not pathlib.Path("mended").exists():
    sys.exit("this command is broken")
out.mkdir(parents=True)
entry = {"value": abs(value), "stderr": None, "n": 1}
(out / "eval.json").write_text(json.dumps({"right": entry, "about": {}}))
"""
"""A module that records its call and leaves an ``eval.json``; negative values fail until mended."""

STUDIES = """
from corl_jax.studies.comparison import Command, Study
last = lambda *rest, trains=True: Command("last", ("a_command", "{out}", *rest), trains)
STUDIES = {"small": Study("Which?", "Nobody says.", {
    "first": (last("0.{seed}"),),
    "second": (
        Command("early", ("a_command", "{out}", "0")),
        last("-0.5", "from", "{before}", "{first/last}", trains=False),
    ),
}, ("right",))}
"""


@pytest.fixture
def study_folder(tmp_path, monkeypatch):
    """The current folder, with the study ``small`` and the module that its commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_command.py").write_text(COMMAND)
    (tmp_path / "studies.py").write_text(STUDIES)
    return tmp_path


def test_a_study_goes_on_where_it_stopped(study_folder, capsys):
    line = [
        "study",
        "small",
        "--file",
        "studies.py",
        "--out",
        "out",
        "--seeds",
        "2",
        "--set",
        "config.steps=3",
    ]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "second, seed 0, last ended with 1: this command is broken; see" in error
    (study_folder / "mended").touch()
    assert main(line) == 0

    calls = (study_folder / "calls.txt").read_text().splitlines()
    assert [call.partition(" ")[0] for call in calls] == [
        "first/last", "second/early", "second/last",  # broken
        "second/last", "first/last", "second/early", "second/last",
    ]  # fmt: skip
    assert calls[0].endswith("--config.steps=3")
    assert calls[3].endswith("from out/seed0/second/early out/seed0/first/last")

    out = study_folder / "out"
    cells = json.loads((out / "study.json").read_text())["cells"]
    assert cells["first"]["right"] == {
        "mean": 0.05,
        "stderr": pytest.approx(0.05),
        "values": [0.0, 0.1],
    }
    assert "| second | 50.0 ± 0.0 | 2 |" in (out / "study.md").read_text()
    page = (out / "study.html").read_text()
    assert (out / "study.svg").read_text().startswith("<svg")
    assert "Nobody says." in page and page.count("<svg") == 1
    assert "a_command out/seed1/first/last 0.1" in page

    assert main(line[:-1] + ["config.steps=4"]) == 2
    error = capsys.readouterr().err
    assert "was run with other arguments (--config.steps=3 --config.steps=4)" in error


def test_a_cell_is_mean_and_standard_error_over_seeds(tmp_path):
    study = Study("", "", {"a": (Command("x", ("m",)),)}, ("p",))
    runs = list(plan_runs(study, range(3), tmp_path))
    for run, value in zip(runs, (0.1, 0.2, 0.6), strict=True):
        run.folder.mkdir(parents=True)
        evals = {"before": {}, "after": {"p": {"value": value}}, "run": {}}
        (run.folder / "eval.json").write_text(json.dumps(evals))

    cell = make_table(study, runs)["a"]["p"]
    assert cell.mean == pytest.approx(0.3) and cell.stderr == pytest.approx(math.sqrt(0.07 / 3))
    assert render_markdown(study, {"a": {"p": cell}}).splitlines()[-1] == "| a | 30.0 ± 15.3 | 3 |"
    # The mean of columns has the error of its values by seed, not of its parts.
    halves = Study("", "", study.arms, ("p",), means={"twice": ("p", "p")})
    assert make_table(halves, runs)["a"]["twice"] == cell
    with pytest.raises(UserError, match="has no 'q'. Expected one of p"):
        make_table(Study("", "", study.arms, ("q",)), runs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["none", "--file", "studies.py"], "unknown study 'none'; expected one of small"),
        (["small", "--file", "nowhere.py"], "configs/studies.py; got 'nowhere.py'"),
        (
            ["small", "--file", "studies.py", "--seeds", "0"],
            "--seeds must be a whole number from 1 to 100; got 0",
        ),
        (["small", "--file", "studies.py", "--set", "steps=1"], "got 'steps=1'"),
    ],
)
def test_bad_input_is_one_line(study_folder, line, message, capsys):
    assert main(["study", *line]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_command_refers_to_earlier_commands_only(tmp_path):
    arms = {"a": (Command("x", ("m", "{b/x}")),), "b": (Command("x", ("m",)),)}
    message = "'x' of the arm 'a' refers to 'b/x', and no earlier command has this name"
    with pytest.raises(UserError, match=message):
        list(plan_runs(Study("", "", arms, ("p",)), [0], tmp_path))


@pytest.mark.parametrize("name", SHIPPED)
def test_commands_of_the_shipped_studies_are_valid(name, tmp_path, monkeypatch):
    """Configs, keys and values exist, from any directory; nothing is run."""
    monkeypatch.chdir(tmp_path)
    from corl_jax.commands.cli import make_parser
    from corl_jax.main import parse_command_line

    for run in plan_runs(load_study("configs/studies.py", name), [0, 1], tmp_path):
        module, *rest = run.arguments
        if module == "corl_jax.main":
            config, workdir, _ = parse_command_line([module, *rest])
            assert config["seed"] == run.seed and workdir == str(run.folder)
        else:
            assert module == "corl_jax.commands.cli" and make_parser().parse_args(rest).run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "eval.json' must be a JSON object; got a list"),
        ('{"p": 3}', "p in .*eval.json' must be a JSON object; got a number"),
        ('{"p": {"value": "high"}}', "p.value in .*eval.json' must be a number; got 'high'"),
        ('{"before": {}, "after": [1]}', "after in .*eval.json' must be a JSON object; got a list"),
        ('{"p": {"value": NaN}}', "p.value in .*eval.json' must be a finite number"),
    ],
)
def test_evaluations_that_are_damaged(tmp_path, content, message):
    study = Study("", "", {"a": (Command("x", ("m",)),)}, ("p",))
    (run,) = plan_runs(study, [0], tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "eval.json").write_text(content)
    with pytest.raises(UserError, match=message):
        make_table(study, [run])

    run.folder.with_name("x.json").write_text('{"arguments": "m"}')
    with pytest.raises(UserError, match="arguments in .*x.json' must be a list of texts; got 'm'"):
        assert run.done
