"""The command line: what it writes and prints, and that bad input is one line, exit code 2, and nothing overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from corl_jax.commands.cli import main
from corl_jax.commands.sample import slug
from corl_jax.evals.sampler_scorer_gap import Agreement


@pytest.fixture
def picture(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(capsys, *line):
    code = main([str(word) for word in line])
    return code, *capsys.readouterr()


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom corl_jax.commands.cli import parser\ntext = parser().format_help()\n"
        "assert all(name in text for name in ('sample', 'ask', 'evaluate', 'report', 'doctor'))\n"
        "assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_writes_what_the_policy_draws(capsys, tiny_policy, tiny_policy_folder, tmp_path):
    asked = ("--prompt", "a red circle", "--n", 2, "--out", tmp_path / "new/dir")
    line = ("sample", "--policy", tiny_policy_folder, *asked)
    code, out, _ = run(capsys, *line)
    assert code == 0
    paths = [tmp_path / "new/dir" / f"a-red-circle-{i}.png" for i in (0, 1)]
    assert out.split() == [str(path) for path in paths]
    drawn = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(drawn, tiny_policy.generate(["a red circle"], 2)[0])
    before = [path.read_bytes() for path in paths]
    code, _, err = run(capsys, *line, "--seed", 1)
    assert code == 2 and "exists" in err and [path.read_bytes() for path in paths] == before
    assert run(capsys, *line, "--seed", 1, "--overwrite")[0] == 0
    assert [path.read_bytes() for path in paths] != before


def test_ask_prints_the_answer(capsys, tiny_policy_folder, picture):
    code, out, _ = run(
        capsys,
        "ask",
        "--policy",
        tiny_policy_folder,
        "--image",
        picture,
        "--question",
        "how many circles are there?",
    )
    assert code == 0 and out.strip()


def test_evaluate_writes_numbers(capsys, tiny_policy_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("corl_jax.data.shapes.builder.SPLITS", {"train": 4, "test": 8})
    out = tmp_path / "numbers.json"
    line = (
        "evaluate",
        "--policy",
        tiny_policy_folder,
        "--suite",
        "shapes",
        "--n",
        2,
        "--seed",
        3,
        "--out",
        out,
    )
    code, table, _ = run(capsys, *line, "--guidance", "2")
    assert code == 0 and "qa_greedy" in table
    numbers = json.loads(out.read_text())
    assert numbers["t2i_strict@w=2"]["n"] == 2 and numbers["about"]["seed"] == 3
    assert set(numbers["qa_sampled_strict"]) == {"value", "stderr", "n"}
    assert run(capsys, *line)[0] == 2 and json.loads(out.read_text()) == numbers


def test_doctor_agrees_on_a_healthy_policy_and_says_when_not(
    capsys, tiny_policy_folder, tmp_path, monkeypatch
):
    out = tmp_path / "doctor.json"
    code, table, _ = run(capsys, "doctor", "--policy", tiny_policy_folder, "--json", out)
    found = json.loads(out.read_text())
    assert code == 0 and "OK" in table
    assert set(found["max_logprob_gap"]) == {"image@w=1", "image@w=2", "text"} and found["ok"]
    assert 0 < max(found["max_logprob_gap"].values()) <= 1e-4
    assert "jax" in found["versions"] and found["device"]
    monkeypatch.setattr("corl_jax.evals.sampler_scorer_gap.TOLERANCE", 0.0)
    code, table, _ = run(capsys, "doctor", "--policy", tiny_policy_folder)
    assert code == 1 and "NOT OK" in table


def test_doctor_holds_a_sampler_in_int8_to_no_limit(capsys, tiny_policy_folder, monkeypatch):
    asked = []

    def measure(*policy, **held):
        asked.append(held)
        return Agreement({"text": 0.2}, {"text": 1e-3 if held["cache"] == "same" else 1e-6})

    monkeypatch.setattr("corl_jax.evals.sampler_scorer_gap.measure_agreement", measure)
    line = ("doctor", "--policy", tiny_policy_folder, "--rollout-weights", "int8")
    code, table, _ = run(capsys, *line, "--rollout-cache", "int8")
    assert code == 0 and "2.00e-01" in table and "OK" in table and "held to no limit" in table
    code, table, _ = run(capsys, *line)
    assert code == 1 and "NOT OK: the scorer disagrees" in table
    assert asked == [{"weights": "int8", "cache": "int8"}, {"weights": "int8", "cache": "same"}]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("doctor --policy POLICY --rollout-cache int4", "int4"),
        ("", "COMMAND"),
        ("paint", "paint"),
        ("sample --policy POLICY --prompt red", "--out"),
        ("sample --policy POLICY --prompt a --out NEW --colour red", "--colour"),
        ("sample --policy POLICY --prompt a --n many --out NEW", "many"),
        ("sample --policy POLICY --prompt a --n 0 --out NEW", "--n=0"),
        ("sample --policy POLICY --prompt EMPTY --out NEW", "empty"),
        ("sample --policy POLICY --prompt elephant --out NEW", "elephant"),
        ("sample --policy POLICY --prompt circle --guidance -1 --out NEW", "guidance=-1"),
        ("sample --policy POLICY --prompt circle --out PICTURE", "is a file"),
        ("sample --policy POLICY --prompt circle --out PICTURE/deeper", "is a file"),
        ("sample --policy NEW --prompt circle --out NEW", "no folder"),
        ("sample --policy HOME --prompt circle --out NEW", "config.json"),
        ("ask --policy POLICY --image NEW --question circle", "does not exist"),
        ("ask --policy POLICY --image TEXT --question circle", "not a picture"),
        ("ask --policy POLICY --image PICTURE --question EMPTY", "empty"),
        ("evaluate --policy POLICY --suite birds --out NEW", "birds"),
        ("evaluate --policy POLICY --out HOME", "is a folder"),
        ("report --workdir NEW", "config.json"),
        ("doctor --policy NEW", "no folder"),
    ],
)
def test_bad_input_is_one_line_and_code_two(
    capsys, tiny_policy_folder, tmp_path, picture, line, says
):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    places = {
        "POLICY": tiny_policy_folder,
        "NEW": tmp_path / "new",
        "HOME": tmp_path,
        "PICTURE": picture,
        "TEXT": text,
        "EMPTY": " ",
    }
    words = [str(places[word]) if word in places else word for word in line.split()]
    words = [word.replace("PICTURE", str(picture)) for word in words]
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_slug():
    assert slug("Two RED circles, and a square!") == "two-red-circles-and-a-square"
    assert slug("../../etc") == "etc" and slug("?!") == "picture" and len(slug("a " * 100)) <= 60


def test_tokenize_there_and_back(capsys, tiny_policy_folder, picture, tmp_path):
    out = tmp_path / "codes"
    code, said, _ = run(
        capsys, "tokenize", "--policy", tiny_policy_folder, "--image", picture, "--out", out
    )
    assert code == 0 and said.split() == [str(out / "picture.png"), str(out / "picture.npy")]
    assert np.load(out / "picture.npy").shape == (36,)
    line = ("tokenize", "--policy", tiny_policy_folder, "--codes", out / "picture.npy", "--out")
    assert run(capsys, *line, tmp_path / "again")[0] == 0
    assert (tmp_path / "again/picture.png").read_bytes() == (out / "picture.png").read_bytes()
    assert not (tmp_path / "again/picture.npy").exists()
    before = (out / "picture.png").read_bytes()
    code, _, err = run(capsys, *line, out)
    assert code == 2 and "exists" in err and (out / "picture.png").read_bytes() == before
    for bad, message in (
        (picture, "cannot be read as a .npy file"),
        (tmp_path / "none.npy", "do not exist"),
    ):
        code, _, err = run(capsys, *line[:4], bad, "--out", tmp_path / "new")
        assert code == 2 and message in err and not (tmp_path / "new").exists()


def test_inspect_counts(capsys, tiny_policy_folder):
    code, out, _ = run(capsys, "inspect", "--policy", tiny_policy_folder)
    assert code == 0 and "transformers layout" in out and "special tokens: bos 0" in out
    rows = dict(
        line.rsplit(None, 1)
        for line in out.splitlines()
        if line.startswith(("language_model", "parameters"))
    )
    assert (
        int(rows["parameters"].replace(",", ""))
        > int(rows["language_model"].replace(",", ""))
        > 10**5
    )
