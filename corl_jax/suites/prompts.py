"""How benchmarks put their questions to Janus, as VLMEvalKit has them.

Source: open-compass/VLMEvalKit, ``vlmeval/vlm/janus.py``, and for questions that it leaves to the
benchmark ``vlmeval/dataset/image_base.py`` and ``image_mcq.py``, at e8e78f0. All pictures come
first, each as one placeholder.
"""

from __future__ import annotations

import dataclasses

from corl_jax.suites.questions.question import Question

MMVET_SYSTEM = (
    "You are a helpful assistant. Please answer truthfully and write out your thinking step by step "
    "to be sure you get the right answer."
)


@dataclasses.dataclass(frozen=True)
class SuitePrompt:
    """What the policy reads behind the pictures.

    Attributes:
      content: with the line end that stands behind the pictures, where there is one.
      system: what comes before the turn of the user; "" for nothing.
    """

    content: str
    system: str = ""


def yes_no(question: Question) -> SuitePrompt:
    """A question whose answer is yes or no."""
    text = question.text.replace(" Please answer yes or no.", "")
    return SuitePrompt(f"\n{text}\nAnswer the question using a single word or phrase.")


def mme(question: Question) -> SuitePrompt:
    """The same with the request to answer yes or no, which MME's questions end with."""
    return SuitePrompt(f"\n{question.text}\nAnswer the question using a single word or phrase.")


def multiple_choice(question: Question) -> SuitePrompt:
    """A question with lettered options, or one that asks for a direct answer where it has none."""
    hint = f"Hint: {question.hint}\n" if question.hint else ""
    if not question.choices:
        return SuitePrompt(f"\n{hint}{question.text}\nAnswer the question directly. ")
    return SuitePrompt(
        f"\n{hint}{question.text}\n{_options(question)}\n"
        "Answer with the option's letter from the given choices directly."
    )


def mmmu_pro(question: Question) -> SuitePrompt:
    """MMMU-Pro with ten options."""
    return SuitePrompt(
        f"Question: {question.text}\nOptions:\n{_options(question)}"
        "Answer directly with the option letter from the given choices. "
    )


def mmmu_pro_vision(question: Question) -> SuitePrompt:
    """MMMU-Pro whose question and options are in the picture."""
    return SuitePrompt(
        "Answer the following multiple-choice question in the image. "
        "Answer directly with the option letter from the given choices. "
    )


def as_published(question: Question) -> SuitePrompt:
    """The question as its owner writes it, right behind the picture."""
    return SuitePrompt(question.text)


def mmvet(question: Question) -> SuitePrompt:
    """MM-Vet, which lets the policy think."""
    return SuitePrompt(f"\n{question.text}", MMVET_SYSTEM)


def _options(question: Question) -> str:
    return "".join(f"{letter}. {text}\n" for letter, text in question.choices.items())
