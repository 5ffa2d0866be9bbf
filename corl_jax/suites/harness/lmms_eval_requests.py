"""What lmms-eval hands over as requests of a policy: a text, and the pictures of its document."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import ImageInput
from corl_jax.sampling.policy import Policy
from corl_jax.suites.prompts import SuitePrompt
from corl_jax.suites.requests import Request, make_request


@dataclasses.dataclass(frozen=True)
class Document:
    """Where a question is.

    Attributes:
      id: its row.
      task, split: of whose data.
    """

    id: int
    task: str
    split: str

    @property
    def location(self) -> str:
        """For errors."""
        return f"document {self.id} of {self.split!r} of {self.task}"

    def row(self, tasks: Mapping[str, Any]) -> Any:
        """Its columns, in the data of all tasks by name and split."""
        return tasks[self.task][self.split][self.id]


@dataclasses.dataclass(frozen=True)
class Content:
    """A question as lmms-eval has it.

    Attributes:
      text: of the question.
      doc_to_visual: gives the pictures of a row.
      document: where both are from.
    """

    text: str
    doc_to_visual: Callable[[Any], Any]
    document: Document


def prepare_requests(
    policy: Policy, tasks: Mapping[str, Any], contents: Sequence[Content], plain_roles: bool
) -> list[Request]:
    """The requests of questions: pictures, a line end and the text, as Janus reads them.

    Pictures are counted here and read again for their call: all at once would not fit.

    Args:
      tasks: data by task and split.
      plain_roles: writes the roles as words.

    Raises:
      UserError: a text that the tokenizer refuses, or something that is no picture.
    """
    counts: dict[Document, int] = {}
    requests = []
    for content in tqdm(contents, desc="corl_jax: prompts", file=sys.stderr, ascii=True):
        document = content.document
        read = functools.partial(_read_pictures, tasks, content)
        if document not in counts:
            counts[document] = len(read())
        pictures, text = counts[document], content.text.strip()
        prompt = SuitePrompt(f"\n{text}" if pictures else text)
        requests.append(
            make_request(policy, prompt, pictures, read, document.location, plain_roles)
        )
    return requests


def _read_pictures(tasks: Mapping[str, Any], content: Content) -> list[ImageInput]:
    """The pictures of a question.

    Raises:
      UserError: it has sounds, or a film as an object.
    """
    visuals = content.doc_to_visual(content.document.row(tasks)) or []
    for visual in visuals:
        if isinstance(visual, Mapping):
            raise UserError(
                f"{content.document.location}: what a policy reads must be pictures; got an object "
                f"with {', '.join(map(str, visual))}. Choose a task about pictures"
            )
    return list(visuals)
