"""``corl``: files and printed text; bad input is one line, exit code 2, and nothing overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from corl_jax.commands import common
from corl_jax.commands.cli import main, make_parser
from corl_jax.commands.sample import slug
from corl_jax.core.errors import UserError
from corl_jax.evals.sampler_scorer_gap import LogProbGaps, RoundingGap
from corl_jax.sampling.policy import MAX_ANSWER_TOKENS, Samples


@pytest.fixture
def picture(tmp_path, rng):
    """A file with an image of random pixels."""
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(capsys, *arguments):
    """Runs a command; exit code, stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom corl_jax.commands.cli import make_parser\n"
        "text = make_parser().format_help()\n"
        "assert all(name in text for name in ('sample', 'ask', 'evaluate', 'report', 'doctor'))\n"
        "assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_writes_what_the_policy_draws(capsys, tiny_policy, tiny_policy_folder, tmp_path):
    flags = ("--prompt", "a red circle", "--n", 2, "--out", tmp_path / "new/dir")
    line = ("sample", "--policy", tiny_policy_folder, *flags)
    code, out, _ = run(capsys, *line)
    assert code == 0
    paths = [tmp_path / "new/dir" / f"a-red-circle-{i}.png" for i in (0, 1)]
    assert out.split() == [str(path) for path in paths]
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(images, tiny_policy.generate(["a red circle"], 2)[0])

    # Another seed draws other pictures, which need another name or permission.
    before = [path.read_bytes() for path in paths]
    code, _, err = run(capsys, *line, "--seed", 1)
    assert code == 2 and "exists" in err and [path.read_bytes() for path in paths] == before
    assert run(capsys, *line, "--seed", 1, "--overwrite")[0] == 0
    assert [path.read_bytes() for path in paths] != before


def test_sample_passes_the_guidance_scale(capsys, tiny_policy, tiny_policy_folder, tmp_path):
    flags = ("--prompt", "a red circle", "--n", 2, "--guidance-scale", 5, "--out", tmp_path)
    assert run(capsys, "sample", "--policy", tiny_policy_folder, *flags)[0] == 0
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*.png"))])
    expected = tiny_policy.generate(["a red circle"], 2, guidance=5.0)[0]
    np.testing.assert_array_equal(images, expected)


def test_sample_writes_plans_beside_what_was_drawn_behind_them(capsys, dot_policy_folder, tmp_path):
    flags = ("--prompt", "a red circle", "--n", 2, "--plan", 6, "--out", tmp_path)
    line = ("sample", "--policy", dot_policy_folder, *flags)
    code, out, _ = run(capsys, *line)
    assert code == 0
    plans = [(tmp_path / f"a-red-circle-{i}.txt").read_text("utf-8").strip() for i in (0, 1)]
    assert all(plans) and plans[0] != plans[1]
    assert out.splitlines() == [
        f"{tmp_path / f'a-red-circle-{i}.png'}: {plan}" for i, plan in enumerate(plans)
    ]

    # A plan and its picture do not depend on how many there are.
    again = (*line[:5], "--n", 1, *line[7:9], "--out", tmp_path / "one")
    assert run(capsys, *again)[0] == 0
    assert (tmp_path / "one" / "a-red-circle-0.txt").read_text("utf-8").strip() == plans[0]
    pixels = [
        np.asarray(Image.open(folder / "a-red-circle-0.png"), int)
        for folder in (tmp_path, tmp_path / "one")
    ]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1

    code, _, err = run(capsys, *line[:7], "--plan-template", "objects", "--out", tmp_path / "new")
    assert code == 2 and "--plan-template is for --plan" in err


@pytest.mark.parametrize("flag", ["--guidance", "--guidance-scale"])
def test_the_guidance_scale_has_two_flags(flag):
    args = make_parser().parse_args(["evaluate", "--policy", "p", "--out", "x", flag, "1", "2"])
    assert args.guidance_scales == [1.0, 2.0]
    args = make_parser().parse_args(
        ["sample", "--policy", "p", "--prompt", "a", "--out", "x", flag, "3"]
    )
    assert args.guidance_scale == 3.0


def test_ask_prints_the_answer(capsys, tiny_policy_folder, picture):
    question = "how many circles are there?"
    line = ("ask", "--policy", tiny_policy_folder, "--image", picture, "--question", question)
    code, out, err = run(capsys, *line)
    assert code == 0 and out.strip()

    # An untrained policy writes no end token.
    assert "the answer was cut at 64 tokens; raise --completion-length" in err
    short = run(capsys, *line, "--completion-length", 3)[2]
    assert "the answer was cut at 3 tokens" in short


def test_the_flags_have_the_bounds_of_the_policy():
    """They are repeated, since help must not wait for JAX."""
    assert common.Samples.__metadata__[0] == Samples.__metadata__[0]
    assert common.ANSWER_LENGTH == MAX_ANSWER_TOKENS


def test_evaluate_writes_numbers(capsys, tiny_policy_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("corl_jax.data.shapes.builder.SPLITS", {"train": 4, "test": 8})
    out = tmp_path / "numbers.json"
    line = ("evaluate", "--policy", tiny_policy_folder, "--suite", "shapes")
    line += ("--n", 2, "--seed", 3, "--out", out)
    code, table, _ = run(capsys, *line, "--guidance", "2")
    assert code == 0 and "qa_greedy" in table
    numbers = json.loads(out.read_text())
    assert [name for name in numbers if name.startswith("t2i_strict")] == ["t2i_strict@w=2"]
    assert numbers["t2i_strict@w=2"]["n"] == 2 and numbers["about"]["seed"] == 3
    assert set(numbers["qa_sampled_strict"]) == {"value", "stderr", "n"}
    assert run(capsys, *line)[0] == 2 and json.loads(out.read_text()) == numbers


def test_doctor_accepts_a_healthy_policy_and_refuses_larger_gaps(
    capsys, tiny_policy_folder, tmp_path, monkeypatch
):
    out = tmp_path / "doctor.json"
    code, table, _ = run(capsys, "doctor", "--policy", tiny_policy_folder, "--json", out)
    values = json.loads(out.read_text())
    assert code == 0 and "OK" in table
    parts = {"image@w=1", "image@w=2", "text", "plan", "image behind plan@w=2"}
    assert set(values["max_logprob_gap"]) == parts and values["ok"]
    assert 0 < max(values["max_logprob_gap"].values()) <= 1e-4
    assert values["rollout"] == {"weights": "same", "cache": "same"}
    assert "jax" in values["versions"] and values["device"]

    rounding = values["rounding"]
    assert (rounding["dtype"], rounding["guidance"]) == ("bfloat16", 5.0)
    parts = {"image@w=5", "text", "plan", "image behind plan@w=5"}
    assert set(rounding["mean_gap"]) == set(rounding["outside"]) == parts
    assert 0 < rounding["mean_gap"]["image@w=5"] < 0.02 and rounding["outside"]["text"] == 0
    assert "image@w=5" in table

    monkeypatch.setattr("corl_jax.evals.sampler_scorer_gap.TOLERANCE", 0.0)
    line = ("doctor", "--policy", tiny_policy_folder, "--dtype", "float32", "--guidance", "2")
    code, table, _ = run(capsys, *line)
    assert code == 1 and "NOT OK" in table


def test_doctor_has_no_limit_for_an_int8_sampler(capsys, tiny_policy_folder, monkeypatch):
    calls = []

    def measure_log_prob_gaps(policy, **dtypes):
        calls.append(dtypes)
        prefix_gap = 1e-3 if dtypes["cache_dtype"] == "same" else 1e-6
        return LogProbGaps({"text": 0.2}, {"text": prefix_gap})

    def measure_rounding_gaps(policy, guidance, **dtypes):
        return {"text": RoundingGap(0.02, 0.05)}

    module = "corl_jax.evals.sampler_scorer_gap"
    monkeypatch.setattr(f"{module}.measure_log_prob_gaps", measure_log_prob_gaps)
    monkeypatch.setattr(f"{module}.measure_rounding_gaps", measure_rounding_gaps)
    line = ("doctor", "--policy", tiny_policy_folder, "--rollout-weights", "int8")
    code, table, _ = run(capsys, *line, "--rollout-cache", "int8")
    assert code == 0 and "2.00e-01" in table and "OK" in table and "held to no limit" in table
    assert "5.00%" in table and "importance_cap=2" in table
    code, table, _ = run(capsys, *line)
    assert code == 1 and "NOT OK: the scorer disagrees" in table
    assert calls == [
        {"weights_dtype": "int8", "cache_dtype": "int8"},
        {"weights_dtype": "int8", "cache_dtype": "same"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("doctor --policy POLICY --rollout-cache int4", "int4"),
        ("", "COMMAND"),
        ("paint", "paint"),
        ("sample --policy POLICY --prompt red", "--out"),
        ("sample --policy POLICY --prompt a --out NEW --colour red", "--colour"),
        ("sample --policy POLICY --prompt a --n many --out NEW", "many"),
        ("sample --policy POLICY --prompt a --n 0 --out NEW", "--n must be a whole number from 1 "),
        ("sample --policy POLICY --prompt a --n 100000000 --out NEW", "1024; got 100000000."),
        (
            "sample --policy POLICY --prompt a --seed -1 --out NEW",
            "--seed must be a whole number f",
        ),
        (
            "sample --policy POLICY --prompt a --seed 4294967296 --out NEW",
            "4294967295; got 42949672",
        ),
        (
            "sample --policy POLICY --prompt a --temperature nan --out NEW",
            "--temperature must be a f",
        ),
        (
            "evaluate --policy POLICY --guidance 1 inf --out NEW",
            "must be a finite number of at least",
        ),
        (
            "ask --policy POLICY --image PICTURE --question circle --completion-length 0",
            "at least 1;",
        ),
        (
            "ask --policy POLICY --image PICTURE --question circle --completion-length 100000",
            "an answer must have at most",
        ),
        ("sample --policy POLICY --prompt EMPTY --out NEW", "empty"),
        ("sample --policy POLICY --prompt elephant --out NEW", "elephant"),
        (
            "sample --policy POLICY --prompt circle --guidance -1 --out NEW",
            "--guidance-scale/--guidance must be a finite",
        ),
        ("sample --policy POLICY --prompt circle --out PICTURE", "is a file"),
        ("sample --policy POLICY --prompt circle --out PICTURE/deeper", "is a file"),
        ("sample --policy NEW --prompt circle --out NEW", "is not a folder"),
        ("sample --policy HOME --prompt circle --out NEW", "config.json"),
        ("ask --policy POLICY --image NEW --question circle", "does not exist"),
        ("ask --policy POLICY --image TEXT --question circle", "not a picture"),
        ("ask --policy POLICY --image PICTURE --question EMPTY", "empty"),
        ("evaluate --policy POLICY --suite birds --out NEW", "birds"),
        ("evaluate --policy POLICY --out HOME", "must be a new folder, or have settings.json"),
        ("report --workdir NEW", "config.json"),
        ("doctor --policy NEW", "is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_code_two(
    capsys, tiny_policy_folder, tmp_path, picture, line, message
):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    # Words in capitals stand for paths.
    paths = {
        "POLICY": tiny_policy_folder,
        "NEW": tmp_path / "new",
        "HOME": tmp_path,
        "PICTURE": picture,
        "TEXT": text,
        "EMPTY": " ",
    }
    arguments = [str(paths[word]) if word in paths else word for word in line.split()]
    arguments = [argument.replace("PICTURE", str(picture)) for argument in arguments]
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_slug():
    assert slug("Two RED circles, and a square!") == "two-red-circles-and-a-square"
    assert slug("../../etc") == "etc" and slug("?!") == "picture" and len(slug("a " * 100)) <= 60


def test_tokenize_encodes_and_decodes(capsys, tiny_policy_folder, picture, tmp_path):
    out = tmp_path / "codes"
    line = ("tokenize", "--policy", tiny_policy_folder)
    code, printed, _ = run(capsys, *line, "--image", picture, "--out", out)
    assert code == 0 and printed.split() == [str(out / "picture.png"), str(out / "picture.npy")]
    assert np.load(out / "picture.npy").shape == (36,)

    # The codes alone give the same picture.
    decode = (*line, "--codes", out / "picture.npy", "--out")
    assert run(capsys, *decode, tmp_path / "again")[0] == 0
    assert (tmp_path / "again/picture.png").read_bytes() == (out / "picture.png").read_bytes()
    assert not (tmp_path / "again/picture.npy").exists()
    before = (out / "picture.png").read_bytes()
    code, _, err = run(capsys, *decode, out)
    assert code == 2 and "exists" in err and (out / "picture.png").read_bytes() == before

    for codes, message in (
        (picture, "cannot be read as a .npy file"),
        (tmp_path / "none.npy", "does not exist"),
    ):
        code, _, err = run(capsys, *line, "--codes", codes, "--out", tmp_path / "new")
        assert code == 2 and message in err and not (tmp_path / "new").exists()


def test_inspect_counts(capsys, tiny_policy_folder):
    code, out, _ = run(capsys, "inspect", "--policy", tiny_policy_folder)
    assert code == 0 and "transformers layout" in out and "special tokens: bos 0" in out
    sizes = {}
    for line in out.splitlines():
        if line.startswith(("language_model", "parameters")):
            name, size = line.rsplit(None, 1)
            sizes[name] = int(size.replace(",", ""))
    assert sizes["parameters"] > sizes["language_model"] > 10**5


@pytest.mark.parametrize(
    "line", [["export", "--policy", "tiny"], ["merge", "--base", "tiny", "--experts", "tiny"]]
)
def test_copies_of_a_policy_check_its_links(capsys, monkeypatch, tmp_path, line):
    def refuse(source):
        raise UserError("a link leads out")

    monkeypatch.setattr("corl_jax.porting.policy_source.PolicySource.check_links", refuse)
    code, _, err = run(capsys, *line, "--out", tmp_path / "new")
    assert code == 2 and err == "error: a link leads out\n" and not (tmp_path / "new").exists()
