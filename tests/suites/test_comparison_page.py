"""The page of a comparison and the command that writes it."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest
from made_results import make_results, noise_picture, write_folder

from corl_jax.commands.cli import main
from corl_jax.evals.statistics import estimate
from corl_jax.report.comparison_page import make_labels, render_comparison
from corl_jax.suites.comparing.comparison import compare_results
from corl_jax.suites.comparing.published import MODELS, PUBLISHED, published_rows
from corl_jax.suites.comparing.sum_metrics import f1_of
from corl_jax.suites.results import read_results

EVIL = "<script>alert('x')</script>&\""


@pytest.fixture
def question_folders(tmp_path):
    """Two folders of 120 questions; the second answers 30 more right and 4 more wrong."""
    first = np.repeat([0.0, 1.0], 60)
    second = first.copy()
    second[:30], second[60:64] = 1, 0
    folders = []
    for name, scores in (("base", first), ("corl", second)):
        results = make_results(
            name,
            scores,
            categories=["small" if place % 2 else EVIL for place in range(120)],
            prompt=[f"Is there a {EVIL}\nin picture {place}?" for place in range(120)],
            reference=[EVIL if place == 0 else "yes" for place in range(120)],
            output=[f"{name} says {EVIL}" for _ in range(120)],
            picture=["pictures/one.png"] * 120,
            about={"policy": f"/home/somebody/{name}", "seed": name, "note": EVIL, "n": 120},
        )
        metrics = {"accuracy": estimate(scores)}
        pictures = {"pictures/one.png": noise_picture(0, 300)}
        folders.append(write_folder(tmp_path / name, results, pictures, metrics))
    return folders


@pytest.fixture
def drawing_folders(tmp_path):
    """Two folders of 50 prompts with two pictures each; from prompt 45 on they differ."""
    folders = []
    for name in ("base", "corl"):
        results = make_results(
            name,
            [{"correct": float(name == "corl" and place >= 90)} for place in range(100)],
            suite="geneval",
            clusters=[place // 2 for place in range(100)],
            prompt=[f"a photo of thing {place // 2}." for place in range(100)],
            reference=[""] * 100,
            output=[""] * 100,
            picture=[f"pictures/{place}.png" for place in range(100)],
        )
        pictures = {f"pictures/{place}.png": noise_picture(place, 16) for place in range(100)}
        folders.append(write_folder(tmp_path / "drawn" / name, results, pictures))
    return folders


class Checker(html.parser.HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def render(folders):
    return render_comparison(compare_results([read_results(folder) for folder in folders]))


def test_questions_where_policies_differ(question_folders):
    page = render(question_folders)
    checker = Checker(page)
    # One file without scripts: pictures are in it, and what was text stays text.
    assert "script" not in checker.tags
    assert checker.sources and all(it.startswith("data:image/") for it in checker.sources)
    assert "&lt;script&gt;" in page and "/home/somebody" not in page

    # The verdict is a sentence, with its interval, before the first table.
    verdict = page.index(
        "B: corl is higher than A: base (50.0 % and 71.7 %; difference +21.7 points"
    )
    assert verdict < page.index("<table ")
    assert re.search(r">\+21\.7</td>\s*<td [^>]*>\+1\d\.\d to \+3\d\.\d</td>", page)
    assert ">30 / 4</td>" in page and "corrected for the number of categories (Holm)" in page

    # 40 of the 34 that differ would be all of them; each has both answers and their marks.
    assert "34 of 34 questions" in page and page.count('class="card talk"') == 34
    assert page.count("base says") == page.count("corl says") == 34
    assert page.count('class="ok"') == page.count('class="no"') == 34
    assert page.count("<img") == 34 and "image/jpeg" in page

    # Settings that differ are shown, others are folded away; metrics are those of the folders.
    assert ">seed</th>" in page and ">n</th>" not in page
    assert "0.5 ± 0.0458" in page


def test_published_numbers_are_marked_as_theirs(question_folders, drawing_folders):
    page = render(question_folders)
    start = page.index("For reference: the paper's numbers")
    part = page[start : page.index("<h2>", start)]
    assert all(value in part for value in ("43.1", "47.6", "46.5", *MODELS))
    assert "Theirs, not measured here" in part and "table 2" in part
    assert "0.73" in render(drawing_folders) and "colour attribution" in render(drawing_folders)

    # A suite that the paper does not have, though its name begins alike.
    assert published_rows("mmmu_pro") == () and published_rows("MMMU")[0].values[1] == "42.3"
    assert all(float(value) > 0 for row in PUBLISHED for value in row.values)
    assert {row.suite for row in PUBLISHED} >= {"wise", "dpg", "mmstar", "wemath", "mmvet"}
    assert {row.suite for row in PUBLISHED} >= {
        "logicvista",
        "mathvista",
        "mathverse",
        "mathvision",
    }


def test_pictures_side_by_side(drawing_folders):
    page = render(drawing_folders)
    Checker(page)
    assert "40 of 50 prompts" in page and page.count('class="rule"') == 40
    assert page.count("<img") == 40 * 4 and page.count('data-side="B: corl"') == 40
    # Small pictures keep their pixels, and the prompts that differ come first.
    assert "image/jpeg" not in page
    shown = re.findall(r'class="words">a photo of thing (\d+)\.', page)
    assert set(shown[:5]) == {"45", "46", "47", "48", "49"} and len(set(shown)) == 40
    # The scores are text below the pictures.
    assert page.count("<figcaption>correct 1</figcaption>") == 10
    assert render(drawing_folders) == page


def test_a_page_without_differences(tmp_path):
    sides = [make_results(name, [1.0, 0.0, 1.0], suite="mine") for name in ("a", "b")]
    page = render_comparison(compare_results(sides, {"f1": f1_of("right", "yes")}))
    Checker(page)
    assert "No question has another score" in page and "The folders have no metrics" in page
    assert "paper's numbers" not in page and "By category" not in page


def test_labels_tell_policies_apart(tmp_path):
    sides = [make_results(name, [1.0]) for name in ("a", "b")]
    assert make_labels(sides) == ("A: a", "B: b")
    same = [make_results(name, [1.0], about={"policy": "/x/tiny"}) for name in ("a", "b")]
    assert make_labels(same) == ("A: a", "B: b")
    one = [make_results("a", [1.0], about={"policy": "runs/p"}), make_results("b", [1.0])]
    assert make_labels(one) == ("A: runs/p", "B: b")


def test_the_command(question_folders, tmp_path, capsys):
    out, numbers = tmp_path / "new" / "comparison.html", tmp_path / "comparison.json"
    line = ["compare", *map(str, question_folders), "--out", str(out), "--json", str(numbers)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "right: B: corl is higher than A: base (50.0 % and 71.7 %" in printed
    assert "right, small: " in printed and "Holm" in printed
    assert out.read_text("utf-8").startswith("<!doctype html>")

    content = json.loads(numbers.read_text())
    row = content["differences"][0]
    assert (row["verdict"], row["up"], row["down"], row["clusters"]) == ("higher", 30, 4, 120)
    assert row["difference"] == pytest.approx(26 / 120) and row["low"] < 26 / 120 < row["high"]
    assert len(content["categories"]) == 2 and content["suite"] == "mmstar"

    # Nothing is replaced unless that is said.
    out.write_text("mine")
    assert main(line) == 2
    assert "exists; choose another file, or pass --overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine" and main([*line, "--overwrite"]) == 0


def test_bad_input_is_one_line(question_folders, drawing_folders, tmp_path, capsys):
    first = question_folders[0]
    out = tmp_path / "page.html"

    def error_of(*arguments):
        assert main(["compare", *map(str, arguments), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not out.exists()
        return error

    assert "must have 2 to 8 folders; got 1" in error_of(first)
    assert "must be a folder with results.json" in error_of(first, tmp_path / "none")
    assert "--json must be another file than --out" in error_of(*question_folders, "--json", out)

    # A record names a picture that is gone, and one outside of its folder.
    (first / "pictures" / "one.png").unlink()
    error = error_of(*question_folders)
    assert re.search(r"record 'q\d+' of '.*base': image '.*one.png' does not exist", error)
    (tmp_path / "secret.png").write_bytes(b"")
    (first / "pictures" / "one.png").symlink_to(tmp_path / "secret.png")
    assert "leads out of that folder" in error_of(*question_folders)
