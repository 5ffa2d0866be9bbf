"""Readers of prompts: what owners publish is read, and what cannot be right is one line."""

from __future__ import annotations

import collections
import json

import pytest

from corl_jax.core.errors import UserError
from corl_jax.suites.generation.suite import generation_suites

GENEVAL_LINE = (
    '{"tag": "position", "include": [{"class": "cow", "count": 1}, {"class": "bird", "count": 1, '
    '"position": ["left of", 0]}], "prompt": "a photo of a bird left of a cow"}'
)
WISE_ENTRY = {
    "Prompt": "the fruit of Newton",
    "Explanation": "an apple",
    "Category": "Culture",
    "Subcategory": "people",
    "prompt_id": 7,
}
DPG_HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)
DPG_ROW = 'x1,"a cow, a bird",,1,0,entity,whole,entity - whole (cow),Is there a cow?\n'


def read(suite, path):
    return generation_suites[suite].read(path)


def test_geneval_as_published(test_data):
    prompts = read("geneval", test_data("data/geneval") / "evaluation_metadata.jsonl")
    counts = collections.Counter(prompt.category for prompt in prompts)
    assert len(prompts) == 553 and prompts[552].id == "00552"
    assert counts == {
        "position": 100,
        "color_attr": 100,
        "two_object": 99,
        "colors": 94,
        "single_object": 80,
        "counting": 80,
    }
    assert prompts[0].prompt == "a photo of a bench" == prompts[0].metadata["prompt"]


def test_dpg_as_published(test_data):
    prompts = read("dpg", test_data("data/dpg"))
    assert len(prompts) == 10
    assert prompts[0].id == "0" and not prompts[0].prompt.endswith("\n")


def test_dpg_questions(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    second = DPG_ROW.replace(",1,0,", ',2,"0, 1",')
    path.write_text(DPG_HEAD + DPG_ROW + second, "utf-8")
    (prompt,) = read("dpg", path)
    assert (prompt.id, prompt.prompt) == ("x1", "a cow, a bird")
    assert [question["dependency"] for question in prompt.metadata["questions"]] == [[0], [0, 1]]


def test_wise_reads_all_lists_of_a_folder(tmp_path):
    for place, name in enumerate(("b.json", "a.json")):
        entry = WISE_ENTRY | {"prompt_id": 7 + place}
        (tmp_path / name).write_text(json.dumps([entry]), "utf-8")
    assert [prompt.id for prompt in read("wise", tmp_path)] == ["8", "7"]
    (prompt,) = read("wise", tmp_path / "b.json")
    assert (prompt.prompt, prompt.category) == ("the fruit of Newton", "Culture")
    assert prompt.metadata["Explanation"] == "an apple"


def test_t2i_compbench_is_read_up_to_a_tab(tmp_path):
    path = tmp_path / "color_val.txt"
    path.write_text("a red cow\tcow\n\na blue bird. \n", "utf-8")
    prompts = read("t2i_compbench", path)
    assert [(p.id, p.prompt, p.category) for p in prompts] == [
        ("00000", "a red cow", "color_val"),
        ("00001", "a blue bird.", "color_val"),
    ]


def test_lists_with_and_without_ids(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\n\ntwo\n", "utf-8")
    assert [(p.id, p.prompt) for p in read("prompts", tmp_path / "a.txt")] == [
        ("00000", "one"),
        ("00001", "two"),
    ]
    lines = ['{"prompt": "one", "id": "first", "category": "c", "seen": 3}', '{"prompt": "two"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    first, second = read("prompts", tmp_path / "a.jsonl")
    assert (first.id, first.category, first.metadata["seen"]) == ("first", "c", 3)
    assert second.id == "00001"


@pytest.mark.parametrize(
    "change, expected",
    [
        (("position", "positon"), "tag in line 2"),
        (('"count": 1', '"count": 0'), "include[0].count in line 2"),
        (('"class": "cow"', '"class": " "'), "include[0].class in line 2"),
        (('"left of"', '"beside"'), "include[1].position in line 2"),
        (('"left of", 0', '"left of", 1'), "include[1].position in line 2"),
        (('"position":', '"colour":'), "include[1].colour in line 2"),
        (('"include"', '"includes"'), "includes in line 2"),
        (('"prompt": "a photo of a bird left of a cow"', '"prompt": " "'), "line 2"),
        (('"bird"', "bird"), "line 2"),
    ],
)
def test_a_bad_line_of_geneval_is_named(tmp_path, change, expected):
    path = tmp_path / "m.jsonl"
    # The first change of the tag only: the key "position" stays.
    path.write_text(f"{GENEVAL_LINE}\n{GENEVAL_LINE.replace(*change, 1)}\n", "utf-8")
    with pytest.raises(UserError) as error:
        read("geneval", path)
    assert expected in str(error.value) and "m.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "suite, name, content, expected",
    [
        ("geneval", "a.jsonl", "", "at least one prompt"),
        ("dpg", "a.txt", "a cow", "folder of .txt files"),
        ("dpg", "a.csv", DPG_HEAD.replace("tuple", "triple") + DPG_ROW, "'tuple' is missing"),
        ("dpg", "a.csv", DPG_HEAD + DPG_ROW + "x2,cow\n", "line 3"),
        ("dpg", "a.csv", DPG_HEAD + DPG_ROW.replace(",1,0,", ",one,0,"), "line 2"),
        ("dpg", "a.csv", DPG_HEAD + DPG_ROW + DPG_ROW.replace("a cow", "a dog"), "one text"),
        ("dpg", "a.csv", DPG_HEAD + DPG_ROW.replace("x1", "../x1"), "'../x1'"),
        ("wise", "a.json", "{}", "must be a JSON list"),
        ("wise", "a.json", json.dumps([WISE_ENTRY] * 2), "'7' twice"),
        ("wise", "a.json", json.dumps([WISE_ENTRY | {"prompt_id": "7"}]), "prompt_id in entry 0"),
        ("wise", "a.json", json.dumps([{"Prompt": "x"}]), "Explanation in entry 0"),
        ("t2i_compbench", "a.txt", "one\na_b\n", "line 2"),
        ("t2i_compbench", "a.txt", "a/b\n", "line 1"),
        ("t2i_compbench", "a.txt", "ä" * 121, "got 242"),
        ("prompts", "a.csv", "one", ".txt or .jsonl"),
        ("prompts", "a.jsonl", '{"prompt": "x", "id": "a/b"}', "'a/b'"),
        ("prompts", "a.jsonl", '{"prompt": "x", "id": "A"}\n{"prompt": "y", "id": "a"}', "twice"),
        ("prompts", "a.jsonl", '{"text": "x"}', "prompt in line 1"),
    ],
)
def test_bad_files_are_one_line(tmp_path, suite, name, content, expected):
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(UserError) as error:
        read(suite, tmp_path / name)
    assert expected in str(error.value) and name.split(".")[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_other_bytes_and_missing_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\n")
    with pytest.raises(UserError, match=r"line 2 of .*a\.txt.*UTF-8"):
        read("prompts", tmp_path / "a.txt")
    (tmp_path / "dpg").mkdir()
    with pytest.raises(UserError, match="at least one prompt"):
        read("dpg", tmp_path / "dpg")
    with pytest.raises(UserError, match="no .json file"):
        read("wise", tmp_path / "dpg")
    with pytest.raises(UserError, match="unknown generation suite 'gen'.*geneval"):
        read("gen", tmp_path)
