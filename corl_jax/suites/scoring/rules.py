"""Scores of one answer, benchmark by benchmark: ``(question, text) -> name to number``.

A policy that puts its answer between tags is scored on what is between the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from corl_jax.data.answers.reading import extract_answer
from corl_jax.suites.questions.question import Question
from corl_jax.suites.scoring.aggregates import CORRECT
from corl_jax.suites.scoring.choices import named_option
from corl_jax.suites.scoring.numbers import same_mathvision_answer, same_mathvista_answer
from corl_jax.suites.scoring.yes_no import pope_answer, vlmevalkit_answer

Scores = Mapping[str, float]

OPEN_QUESTION = {"A": "", "B": "Other Answers"}
"""How VLMEvalKit makes a multiple choice of MMMU's open questions; A is the right answer."""


def pope_scores(question: Question, text: str) -> Scores:
    """Right by POPE's rules and by VLMEvalKit's, and whether POPE's read a yes."""
    answer, reference = pope_answer(extract_answer(text)), question.answer.lower()
    return {
        CORRECT: float(answer == reference),
        "correct_vlmevalkit": float(vlmevalkit_answer(extract_answer(text)) == reference),
        "said_yes": float(answer == "yes"),
    }


def yes_no_scores(question: Question, text: str) -> Scores:
    """Right where the text has one of the words yes and no, and it is the right one."""
    answer = vlmevalkit_answer(extract_answer(text))
    return {CORRECT: float(answer == question.answer.lower())}


def choice_scores(question: Question, text: str) -> Scores:
    """Right where the text names the right option."""
    option = named_option(extract_answer(text), question.choices)
    return {CORRECT: float(option == question.answer)}


def mmmu_scores(question: Question, text: str) -> Scores:
    """The same; an open question is one with its answer and 'Other Answers' as options."""
    if question.choices:
        return choice_scores(question, text)
    choices = OPEN_QUESTION | {"A": question.answer}
    return {CORRECT: float(named_option(extract_answer(text), choices) == "A")}


def mathvista_scores(question: Question, text: str) -> Scores:
    """Right where it names the right option, or is the right number or text and nothing else."""
    answer = extract_answer(text)
    if question.choices:
        # The owner's file has the text of the option, VLMEvalKit's table its letter too.
        option = named_option(answer, question.choices)
        letter = question.facts.get("answer_option", "")
        right = option == letter if letter else question.choices.get(option) == question.answer
        return {CORRECT: float(right)}
    answer_type = question.facts["answer_type"]
    return {CORRECT: float(same_mathvista_answer(answer, question.answer, answer_type))}


def mathvision_scores(question: Question, text: str) -> Scores:
    """Right where it names the right option, or is the right number or formula."""
    answer = extract_answer(text)
    if question.choices:
        answer = named_option(answer, question.choices)
    return {CORRECT: float(same_mathvision_answer(answer, question.answer))}


def mathverse_scores(question: Question, text: str) -> Scores:
    """Right where the text is the answer and nothing else."""
    return {CORRECT: float(extract_answer(text).strip() == question.answer.strip())}


def logicvista_scores(question: Question, text: str) -> Scores:
    """Right where the text is the right letters, in any order, and nothing else."""
    letters = sorted(extract_answer(text).replace(",", " ").replace(".", " ").split())
    return {CORRECT: float(letters == sorted(question.answer.replace(",", " ").split()))}


def no_scores(question: Question, text: str) -> Scores:
    """None: a judge must read it."""
    return {}


def table_scores(question: Question, text: str) -> Scores:
    """Of any table: options by letter or text, yes and no as words, else equal texts."""
    if question.choices:
        return choice_scores(question, text)
    if question.answer.lower() in ("yes", "no"):
        return yes_no_scores(question, text)
    return {CORRECT: float(extract_answer(text).strip().lower() == question.answer.strip().lower())}
