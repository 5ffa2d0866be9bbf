"""Studies: legs run once and in order, tables over seeds, and every command of ours is one that its program takes."""

from __future__ import annotations

import json
import math
import pathlib

import pytest

from corl_jax.commands.cli import main
from corl_jax.commands.study import load
from corl_jax.core.errors import UserError
from corl_jax.studies.comparison import Leg, Study, jobs, markdown, table

ROOT = pathlib.Path(__file__).parents[2]

LEG = """
import json, pathlib, sys
out, value = pathlib.Path(sys.argv[1]), float(sys.argv[2])
with open("calls.txt", "a") as calls:
    calls.write(f"{out.parent.name}/{out.name} {' '.join(sys.argv[3:])}\\n")
if value < 0 and not pathlib.Path("mended").exists():
    sys.exit("this leg is broken")
out.mkdir(parents=True)
(out / "eval.json").write_text(json.dumps({"right": {"value": abs(value), "stderr": None, "n": 1}, "about": {}}))
"""

STUDIES = """
from corl_jax.studies.comparison import Leg, Study
one = lambda *rest, trains=True: Leg("leg", ("a_leg", "{out}", *rest), trains)
STUDIES = {"small": Study("Which?", "Nobody says.", {
    "first": (one("0.{seed}"),),
    "second": (Leg("early", ("a_leg", "{out}", "0")), one("-0.5", "from", "{before}", "{first/leg}", trains=False)),
}, ("right",))}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_leg.py").write_text(LEG)
    (tmp_path / "studies.py").write_text(STUDIES)
    return tmp_path


def test_a_study_goes_on_where_it_stopped(here, capsys):
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
    assert "second, seed 0, leg ended with 1: this leg is broken; see" in capsys.readouterr().err
    (here / "mended").touch()
    assert main(line) == 0
    calls = (here / "calls.txt").read_text().splitlines()
    assert [call.partition(" ")[0] for call in calls] == [
        "first/leg", "second/early", "second/leg",  # broken
        "second/leg", "first/leg", "second/early", "second/leg",
    ]  # fmt: skip
    assert calls[0].endswith("--config.steps=3") and calls[3].endswith(
        "from out/seed0/second/early out/seed0/first/leg"
    )
    cells = json.loads((here / "out" / "study.json").read_text())["cells"]
    assert cells["first"]["right"] == {
        "mean": 0.05,
        "stderr": pytest.approx(0.05),
        "values": [0.0, 0.1],
    }
    assert "| second | 50.0 ± 0.0 | 2 |" in (here / "out" / "study.md").read_text()
    page = (here / "out" / "study.html").read_text()
    assert (here / "out" / "study.svg").read_text().startswith("<svg")
    assert (
        "Nobody says." in page
        and page.count("<svg") == 1
        and "a_leg out/seed1/first/leg 0.1" in page
    )
    assert main(line[:-1] + ["config.steps=4"]) == 2
    assert (
        "was run with other arguments (--config.steps=3 --config.steps=4)"
        in capsys.readouterr().err
    )


def test_a_cell_is_mean_and_error_over_seeds(tmp_path):
    study = Study("", "", {"a": (Leg("x", ("m",)),)}, ("p",))
    ran = list(jobs(study, range(3), tmp_path))
    for job, value in zip(ran, (0.1, 0.2, 0.6), strict=True):
        job.out.mkdir(parents=True)
        (job.out / "eval.json").write_text(
            json.dumps({"before": {}, "after": {"p": {"value": value}}, "run": {}})
        )
    cell = table(study, ran)["a"]["p"]
    assert cell.mean == pytest.approx(0.3) and cell.stderr == pytest.approx(math.sqrt(0.07 / 3))
    assert markdown(study, {"a": {"p": cell}}).splitlines()[-1] == "| a | 30.0 ± 15.3 | 3 |"
    with pytest.raises(UserError, match="has no 'q'; it has p"):
        table(Study("", "", study.arms, ("q",)), ran)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["none", "--file", "studies.py"], "unknown study 'none'; expected one of small"),
        (["small", "--file", "nowhere.py"], "'nowhere.py' is not there"),
        (["small", "--file", "studies.py", "--seeds", "0"], "--seeds=0 is no number"),
        (["small", "--file", "studies.py", "--set", "steps=1"], "--set 'steps=1' is no change"),
    ],
)
def test_bad_input_is_one_line(here, line, said, capsys):
    assert main(["study", *line]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_an_arm_builds_on_those_before_it(tmp_path):
    study = Study("", "", {"a": (Leg("x", ("m", "{b/x}")),), "b": (Leg("x", ("m",)),)}, ("p",))
    with pytest.raises(
        UserError, match="the leg 'x' of 'a' names 'b/x', and no leg before it is called so"
    ):
        list(jobs(study, [0], tmp_path))


@pytest.mark.parametrize("name", ["paradigms", "kl", "guidance", "stages", "rewards", "transfer"])
def test_every_command_of_ours_is_taken(name, tmp_path, monkeypatch):
    """Configs, keys and values exist; nothing is run."""
    monkeypatch.chdir(ROOT)
    from corl_jax.commands.cli import parser
    from corl_jax.main import parse

    for job in jobs(load(pathlib.Path("configs/studies.py"), name), [0, 1], tmp_path):
        module, *rest = job.arguments
        if module == "corl_jax.main":
            config, workdir, _ = parse([module, *rest])
            assert config["seed"] == job.seed and workdir == str(job.out)
        else:
            assert module == "corl_jax.commands.cli" and parser().parse_args(rest).run
