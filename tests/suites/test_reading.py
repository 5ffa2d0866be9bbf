"""Questions of every benchmark in its owner's form, and what is refused."""

from __future__ import annotations

import json

import pytest
from made_benchmarks import MAKERS, hub_picture, png_base64, write_lines, write_parquet, write_tsv

from corl_jax.core.errors import UserError
from corl_jax.suites.benchmarks import benchmarks, read_questions
from corl_jax.suites.questions.fields import split_options


def read(name, folder):
    return read_questions(name, MAKERS[name](folder / name))


def test_every_benchmark_has_a_made_file():
    assert set(MAKERS) == set(benchmarks)


@pytest.mark.parametrize(
    "name, number, expected",
    [
        ("pope", 0, dict(id="1", text="Is there a cat in the image?", answer="yes", pictures=1)),
        (
            "mmmu",
            0,
            dict(
                answer="B",
                choices={"A": "a cup", "B": "an 'old' hat"},
                category="Art_Theory",
                pictures=2,
            ),
        ),
        ("mmmu", 1, dict(answer="12", choices={}, category="Math", pictures=1)),
        ("mmmu_pro", 0, dict(answer="F", category="Art", pictures=1)),
        ("mmmu_pro_vision", 0, dict(text="", choices={"A": "one", "B": "two"}, pictures=1)),
        (
            "mmstar",
            0,
            dict(
                text="Where is it?",
                choices={"A": "on the book.", "B": "beneath a cat.", "C": "far", "D": "near"},
                category="coarse perception",
            ),
        ),
        (
            "mmbench",
            0,
            dict(id="7", cluster="7", hint="Look up.", choices={"A": "red", "B": "blue"}),
        ),
        ("mmbench", 1, dict(id="1000007", cluster="7", answer="B", pictures=1)),
        ("mmbench", 2, dict(id="8", cluster="8")),
        (
            "mme",
            0,
            dict(answer="Yes", category="OCR", text="Is there one three? Please answer yes or no."),
        ),
        (
            "mathvista",
            0,
            dict(
                text="Hint: Please answer the question requiring a floating-point number with one "
                "decimal place and provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\n"
                "Question: How long is it? (Unit: cm)",
                category="geometry problem solving",
            ),
        ),
        (
            "mathvista",
            1,
            dict(
                text="Hint: Please answer the question and provide the correct option letter, e.g., "
                "A, B, C, D, at the end.\nQuestion: Which?\nChoices:\n(A) 3/11\n(B) 8/11",
                choices={"A": "3/11", "B": "8/11"},
            ),
        ),
        ("mathverse", 1, dict(id="2", cluster="1", category="Vision Only", answer="14")),
        ("mathvision", 1, dict(choices={"A": "A", "B": "B", "C": "C"}, category="logic")),
        ("logicvista", 1, dict(id="v1_1", answer="A, C", category="inductive, spatial")),
        (
            "wemath",
            2,
            dict(
                id="5/2steps_multi",
                cluster="2steps/5",
                category="2steps_multi",
                choices={"A": "$1$", "B": "$2$", "C": "3", "D": "No correct answer"},
            ),
        ),
        ("mmvet", 0, dict(id="v1_0", answer="-1<AND>-5", category="ocr,math")),
        ("table", 1, dict(choices={"A": "x", "B": "y"}, pictures=2)),
    ],
)
def test_a_question_of_every_form(name, number, expected, tmp_path):
    question = read(name, tmp_path)[number]
    found = {**vars(question), "pictures": len(question.pictures)}
    assert {field: found[field] for field in expected} == expected


def test_questions_about_one_picture_are_a_cluster(tmp_path):
    first, second, third = read("pope", tmp_path)
    assert first.cluster == second.cluster != third.cluster
    one, other = read("mme", tmp_path)[:2]
    assert one.cluster == other.cluster


def test_tables_have_listed_choices_steps_and_versions(tmp_path):
    image = png_base64(1)
    rows = [
        {"index": 1, "question": "Which?", "answer": "8/11", "answer_option": "B", "image": image,
         "choices": "['3/11', '8/11']", "question_type": "multi_choice", "answer_type": "text",
         "task": "geometry"},
    ]  # fmt: skip
    (question,) = read_questions("mathvista", write_tsv(tmp_path / "MathVista_MINI.tsv", rows))
    assert question.choices == {"A": "3/11", "B": "8/11"} and question.category == "geometry"
    assert benchmarks["mathvista"].scores(question, "The answer is B.")["correct"] == 1

    rows = [
        {"index": n, "ID": 3, "key": key, "question": "?", "A": "1", "B": "2", "answer": "A",
         "image": image}
        for n, key in enumerate(["3steps_1", "3steps_multi"])
    ]  # fmt: skip
    questions = read_questions("wemath", write_tsv(tmp_path / "WeMath.tsv", rows))
    assert [q.category for q in questions] == ["3steps_1", "3steps_multi"]
    assert {q.cluster for q in questions} == {"3steps/3"}


def test_options_in_one_text():
    assert split_options("A. $18$; B. $4.5$; C. 9") == {"A": "$18$", "B": "$4.5$", "C": "9"}
    assert split_options("A: B: C") == {"A": "", "B": "C"}
    assert split_options("nothing") == {}


def test_a_table_lacks_what_its_rules_read(tmp_path):
    image = png_base64(1)
    row = {"index": 1, "question": "?", "answer": "A", "image": image}
    for suite, column in {
        "mathvista": "answer_type",
        "mathvision": "choices",
        "mathverse": "problem_version",
        "wemath": "key",
        "logicvista": "skill",
    }.items():
        path = write_tsv(tmp_path / f"{suite}.tsv", [row])
        assert f"{column} must be a text; got nothing" in refused(suite, path)
    empty = {**row, "index": 2, "question": ""}
    assert "question must be a text" in refused(
        "mmbench", write_tsv(tmp_path / "t.tsv", [row, empty])
    )


def test_the_question_of_a_table_may_be_in_its_picture(tmp_path):
    row = {"index": 1, "A": "x", "B": "y", "answer": "A", "image": png_base64(1)}
    (question,) = read_questions("mmmu_pro_vision", write_tsv(tmp_path / "V.tsv", [row]))
    assert question.text == "" and question.choices == {"A": "x", "B": "y"}


def refused(name, path):
    with pytest.raises(UserError) as caught:
        read_questions(name, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_of_another_benchmark_is_refused(tmp_path):
    message = refused("mmmu", MAKERS["pope"](tmp_path))
    assert "--data of mmmu must have the columns id, question, options, answer" in message
    assert "has question_id, image, text, label" in message


def test_an_unknown_suite_is_refused(tmp_path):
    assert "unknown suite 'birds'" in refused("birds", MAKERS["pope"](tmp_path))


@pytest.mark.parametrize(
    "name, lines, words",
    [
        ("pope", ['{"question_id": 1'], ["line 1", "JSON"]),
        (
            "pope",
            ['{"question_id": 1, "image": "gone.jpg", "text": "t", "label": "no"}'],
            ["line 1", "gone.jpg", "does not exist"],
        ),
        (
            "pope",
            ['{"question_id": 1, "image": "a.jpg", "text": ["t"], "label": "no"}'],
            ["line 1", "text must be a text"],
        ),
    ],
)
def test_malformed_lines_are_named(name, lines, words, tmp_path):
    MAKERS[name](tmp_path)
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    message = refused(name, path)
    assert all(word in message for word in words), message


def test_ids_that_repeat_are_refused(tmp_path):
    MAKERS["pope"](tmp_path)
    row = {"question_id": 1, "image": "a.jpg", "text": "t", "label": "no"}
    message = refused("pope", write_lines(tmp_path / "twice.jsonl", [row, row]))
    assert "line 2" in message and "id '1' of line 1" in message


def test_damaged_tables_are_refused(tmp_path):
    good = {"index": "1", "question": "?", "answer": "A", "A": "x", "B": "y"}
    for image, words in {
        "": "image_path must be a text",
        "5": "index of the row that has it; got '5'",
        "!" * 100: "must be a picture in base64",
    }.items():
        path = write_tsv(tmp_path / "t.tsv", [{**good, "image": image}])
        assert words in refused("table", path)

    path.write_text("index\tquestion\timage\n1\t?\tx\ty\n")
    assert "row 1" in refused("table", path) and "as many cells" in refused("table", path)


def test_cells_that_are_no_lists_are_refused(tmp_path):
    row = {
        "id": "a_b_1",
        "question": "?",
        "options": "nothing",
        "answer": "A",
        "image_1": hub_picture(1),
    }
    message = refused("mmmu", write_parquet(tmp_path / "m.parquet", [row]))
    assert "options must be a list; got 'nothing'" in message


def test_wemath_without_options_and_mathvista_of_another_type_are_refused(tmp_path):
    path = MAKERS["wemath"](tmp_path / "w")
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**rows[0], "option": "none"}]))
    assert "option must be options such as" in refused("wemath", path)

    path = MAKERS["mathvista"](tmp_path / "m")
    content = json.loads(path.read_text())
    content["1"]["answer_type"] = "poem"
    path.write_text(json.dumps(content))
    assert "answer_type must be integer, list, or float" in refused("mathvista", path)


def test_mme_without_pictures_or_tabs_is_refused(tmp_path):
    folder = MAKERS["mme"](tmp_path)
    text = folder / "count" / "one.txt"
    text.write_text("Is there one?\n")
    assert "must be a question, a tab and Yes or No" in refused("mme", folder)
    (folder / "count" / "one.jpg").unlink()
    assert "has no picture of its name" in refused("mme", folder)


def test_paths_that_are_no_benchmarks_are_refused(tmp_path):
    assert "there is no" in refused("pope", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has neither" in refused("pope", tmp_path / "empty")
    (tmp_path / "nothing.json").write_text("")
    assert "has no rows" in refused("pope", tmp_path / "nothing.json")
    (tmp_path / "a.pdf").write_text("x")
    assert "must end in one of" in refused("pope", tmp_path / "a.pdf")
