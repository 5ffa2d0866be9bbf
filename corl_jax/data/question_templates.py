"""Templates of questions: what the model is asked to do with a question, beside the question itself.

A record names its template and keeps its question as it is; the template is applied when a prompt
is made. Chat templates, which come around the whole, are in ``data.prompts``.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from corl_jax.core.checks.json_reader import is_text
from corl_jax.core.types import Record

QuestionField = Literal["question", "class_question", "box_question"]
"""Fields of a record that hold a question."""

PLACEHOLDER = "{question}"
CAPTION_PLACEHOLDER = "{prompt}"
FIELDS = re.compile(f"{re.escape(PLACEHOLDER)}|{re.escape(CAPTION_PLACEHOLDER)}")


@dataclasses.dataclass(frozen=True)
class QuestionTemplate:
    """Texts with ``{question}``, and perhaps the record's caption, ``{prompt}``, by what is asked.

    Attributes:
      multiple_choice, open_ended: for ``question``, by ``qa_type``.
      classes, boxes: for ``class_question`` and ``box_question``.
    """

    multiple_choice: str
    open_ended: str
    classes: str
    boxes: str

    @classmethod
    def of_text(cls, text: str) -> QuestionTemplate:
        """The same text for all questions."""
        return cls(text, text, text, text)

    def fill_in(self, record: Record, field: QuestionField) -> str:
        """The question in ``field`` of ``record`` with what this template adds."""
        text = {
            "question": self.multiple_choice if record.qa_type == "MC" else self.open_ended,
            "class_question": self.classes,
            "box_question": self.boxes,
        }[field]
        # Braces elsewhere in the text, or in the question, are ordinary characters.
        values = {PLACEHOLDER: vars(record)[field], CAPTION_PLACEHOLDER: record.prompt}
        return FIELDS.sub(lambda match: values[match[0]], text)


_CORL_ANSWER = (
    "\n\nPlease write your thinking process inside <think> </think> tags, and provide your final "
    "answer{hint} inside <answer> </answer> tags.\n"
    "Your response MUST strictly follow this format: <think> ... </think>{gap}<answer>{form}</answer>"
)
_CORL_KNOWLEDGE = "\n\nAnswer the question based on the image and your world knowledge."

TEMPLATES = {
    "as_is": QuestionTemplate.of_text(PLACEHOLDER),
    "think_answer": QuestionTemplate.of_text(
        "{question}\n\nThink about it first, inside <think> </think> tags, then write the final "
        "answer alone inside <answer> </answer> tags: <think> ... </think> <answer> ... </answer>"
    ),
    # ULM-R1's r_utils.py: MCQ_PROMPT, VQA_PROMPT, CLS_PROMPT, OD_PROMPT. The last two ask about a
    # category, which is what the columns of the question hold then.
    "corl": QuestionTemplate(
        PLACEHOLDER
        + _CORL_KNOWLEDGE
        + _CORL_ANSWER.format(hint=" (option letter, e.g., A/B/C/D)", gap="", form="option letter"),
        PLACEHOLDER
        + _CORL_KNOWLEDGE
        + _CORL_ANSWER.format(hint=" (only 1–3 words)", gap="", form="concise answer"),
        "Identify the species of the most prominent {question} in the image."
        + _CORL_ANSWER.format(hint="", gap=" ", form="species name"),
        "Detect all objects belonging to the category '{question}' in the image, and provide the "
        "bounding boxes (between 0 and 384, integer) and confidence (between 0 and 1, with two "
        "decimal places)."
        + _CORL_ANSWER.format(
            hint="", gap=" ", form="[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]"
        ),
    ),
    # R1-V's grpo.py, also of OThink-MR1. The two spaces are its own.
    "r1_v": QuestionTemplate.of_text(
        "{question}  Output the thinking process in <think> </think> and final answer (number) in "
        "<answer> </answer> tags."
    ),
}
"""Templates by name; ``as_is`` adds nothing."""


class QuestionTemplateName:
    """A bound of a config value: a name in ``TEMPLATES``, or a text with ``{question}``."""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return value in TEMPLATES or (is_text(value) and PLACEHOLDER in value)

    def __str__(self) -> str:
        return f"one of {', '.join(TEMPLATES)}, or a text with {PLACEHOLDER}"


def tells_caption(record: Record) -> bool:
    """Whether the template that a record names has the caption in it."""
    return record.template not in TEMPLATES and CAPTION_PLACEHOLDER in record.template


def fill_in_question(record: Record, field: QuestionField = "question") -> str:
    """What a model is asked: the question in ``field``, in the template that the record names."""
    template = TEMPLATES.get(record.template)
    if template is None:
        template = QuestionTemplate.of_text(record.template)
    return template.fill_in(record, field)
