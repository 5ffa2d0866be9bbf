"""Templates of questions: the text of each, and that a record's question stays as it is."""

from __future__ import annotations

import dataclasses

import pytest

from corl_jax.core.types import Record
from corl_jax.data.mixing.templated_source import TemplatedSource, with_template
from corl_jax.data.question_templates import TEMPLATES, fill_in_question
from corl_jax.data.shapes.examples import example
from corl_jax.data.sources.base import MemorySource

RECORD = Record("r", "", None, "how many?", "2", "OE", class_question="bird", box_question="cat")

CASES = [
    ("as_is", "OE", "question", "how many?", "how many?"),
    ("as_is", "OE", "class_question", "bird", "bird"),
    (
        "r1_v",
        "MC",
        "question",
        "how many?  Output the thinking process in",
        "answer (number) in <answer> </answer> tags.",
    ),
    ("think_answer", "OE", "box_question", "cat\n\nThink", "<answer> ... </answer>"),
    (
        "corl",
        "MC",
        "question",
        "how many?\n\nAnswer the question based on the image and your world knowledge.\n\nPlease "
        "write your thinking process inside <think> </think> tags, and provide your final answer "
        "(option letter, e.g., A/B/C/D) inside",
        "format: <think> ... </think><answer>option letter</answer>",
    ),
    (
        "corl",
        "OE",
        "question",
        "how many?\n\nAnswer the question",
        "(only 1–3 words) inside <answer> </answer> tags.\nYour response MUST strictly follow this "
        "format: <think> ... </think><answer>concise answer</answer>",
    ),
    (
        "corl",
        "OE",
        "class_question",
        "Identify the species of the most prominent bird in the image.\n\nPlease",
        "final answer inside <answer> </answer> tags.\nYour response MUST strictly follow this "
        "format: <think> ... </think> <answer>species name</answer>",
    ),
    (
        "corl",
        "OE",
        "box_question",
        "Detect all objects belonging to the category 'cat' in the image, and provide",
        "<answer>[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]</answer>",
    ),
    ("{prompt}. {question}", "OE", "question", f"{RECORD.prompt}. how many?", "how many?"),
    ("{question} {answer}\nQ: {question}", "OE", "question", "how many? {answer}\nQ", "how many?"),
]


@pytest.mark.parametrize(("template", "qa_type", "field", "start", "end"), CASES)
def test_texts(template, qa_type, field, start, end):
    record = dataclasses.replace(RECORD, template=template, qa_type=qa_type)
    text = fill_in_question(record, field)
    assert text.startswith(start) and text.endswith(end), text


def test_a_question_with_the_placeholder_is_not_filled_in_again():
    record = dataclasses.replace(RECORD, question="what is {question}?", template="r1_v")
    assert fill_in_question(record).startswith("what is {question}?  Output")
    record = dataclasses.replace(RECORD, question="{prompt}", prompt="{question}")
    told = dataclasses.replace(record, template="{prompt}: {question}")
    assert fill_in_question(told) == "{question}: {prompt}"


def test_every_template_has_the_question_everywhere():
    for template in TEMPLATES.values():
        assert all("{question}" in text for text in vars(template).values())


def test_records_of_a_source_name_its_template():
    source = MemorySource([example("train", 0)])
    templated = TemplatedSource(source, "r1_v")
    assert templated[0].template == templated.text_record(0).template == "r1_v"
    assert templated[0].question == source[0].question
    assert with_template(source, "as_is") is source
