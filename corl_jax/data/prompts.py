"""Prompt templates: how a model family spells its special tokens and its prompts.

A template formats texts; ``data.text_tokenizer`` makes token ids of them and puts BOS in front. A
model family with other prompts brings its own ``PromptTemplate``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Container, Sequence


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """Special tokens and prompt formats of a model family.

    Attributes:
      family: name of the models, for error texts.
      bos, eos, pad: begin of sentence, end of sentence, padding.
      begin_of_image, end_of_image: enclose the tokens of an image.
      image: placeholder of one image token in a prompt.
      user, assistant: names of the two roles.
      image_generation_format: prompt that requests an image, with the fields ``user``,
        ``assistant``, ``prompt`` and ``begin_of_image``; the next token is an image token.
      question_format: prompt that asks about an image, with the fields ``user``, ``assistant``,
        ``question`` and one ``image``; the next token is a text token.
      content_format: a turn of the user with any ``content``, images among it, and the beginning of
        the answer; the next token is a text token.
      chat_template: the same for conversations, in Jinja, with the role tokens and without BOS.
    """

    family: str
    bos: str
    eos: str
    pad: str
    begin_of_image: str
    end_of_image: str
    image: str
    user: str
    assistant: str
    image_generation_format: str
    question_format: str
    content_format: str
    chat_template: str

    @property
    def required_tokens(self) -> tuple[str, ...]:
        """Special tokens that a tokenizer of this family must have."""
        return (self.bos, self.eos, self.pad, self.begin_of_image, self.end_of_image, self.image)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """All special tokens: the required ones and the roles. User text must not have any."""
        return (*self.required_tokens, self.user, self.assistant)

    def role_names(self, vocabulary: Container[str]) -> tuple[str, str]:
        """User and assistant as a tokenizer writes them.

        Roles are plain words (``User``) where ``vocabulary`` has no role tokens, as in Janus-1.3B.
        """
        # A word such as ``User`` is an ordinary token there, and allowed in user text.
        user, assistant = (
            role if role in vocabulary else role.strip("<|>")
            for role in (self.user, self.assistant)
        )
        return user, assistant

    def image_generation_text(self, prompt: str, role_names: tuple[str, str]) -> str:
        """Text of the prompt that requests an image of ``prompt``, without BOS."""
        user, assistant = role_names
        return self.image_generation_format.format(
            user=user, assistant=assistant, prompt=prompt, begin_of_image=self.begin_of_image
        )

    def plan_opening_text(self, prompt: str, role_names: tuple[str, str]) -> str:
        """Text of a prompt for an image up to the plan behind ``prompt``, without BOS.

        A point divides them. ``image_generation_suffix`` follows the plan.
        """
        user, assistant = role_names
        beginning, _, _ = self.image_generation_format.partition("{prompt}")
        return f"{beginning.format(user=user, assistant=assistant)}{prompt.rstrip('.')}."

    def image_generation_suffix(self, role_names: tuple[str, str]) -> str:
        """What ``image_generation_text`` has behind the prompt."""
        user, assistant = role_names
        _, _, suffix = self.image_generation_format.partition("{prompt}")
        return suffix.format(user=user, assistant=assistant, begin_of_image=self.begin_of_image)

    def question_text(self, question: str, role_names: tuple[str, str]) -> str:
        """Text of the prompt that asks ``question``, with one image placeholder, without BOS."""
        user, assistant = role_names
        return self.question_format.format(
            user=user, assistant=assistant, question=question, image=self.image
        )

    def content_text(
        self, content: str, pictures: int, system: str, role_names: tuple[str, str]
    ) -> str:
        """Text of the prompt with ``content`` behind ``pictures`` placeholders, without BOS.

        Args:
          system: what comes before the turn; "" for nothing.
        """
        user, assistant = role_names
        turn = self.content_format.format(
            user=user,
            assistant=assistant,
            # Janus's processor strips every turn.
            content=(self.image * pictures + content).strip(),
        )
        return f"{system}\n\n{turn}" if system else turn

    def chat_template_text(self, role_names: tuple[str, str]) -> str:
        """The chat template of a tokenizer that writes the roles as ``role_names``."""
        user, assistant = role_names
        text = self.chat_template.replace(self.user, user)
        return text.replace(self.assistant, assistant)

    def question_suffix(self, role_names: tuple[str, str]) -> str:
        """What ``question_text`` has behind the question."""
        user, assistant = role_names
        _, _, suffix = self.question_format.partition("{question}")
        return suffix.format(user=user, assistant=assistant, image=self.image)


TAG = re.compile(r"<([A-Za-z][\w-]+)>")
"""A tag that begins a text; names have two letters or more."""


def pairs_of_tags(tokens: Collection[str]) -> set[str]:
    """Those of ``tokens`` that are two tags round a text, ``<think>`` and ``</think>``.

    They are part of an answer, whatever a tokenizer's file calls them: a script that adds them to a
    tokenizer often adds them as special tokens. ``<s>`` and ``</s>`` are tags of no text.
    """
    pairs: set[str] = set()
    for token in tokens:
        match = TAG.fullmatch(token)
        if match and f"</{match[1]}>" in tokens:
            pairs |= {token, f"</{match[1]}>"}
    return pairs


def insert_image_tokens(
    ids: Sequence[int], placeholder_id: int, image_ids: Sequence[int]
) -> list[int]:
    """Replaces every ``placeholder_id`` in ``ids`` with all of ``image_ids``."""
    parts = (image_ids if token_id == placeholder_id else (token_id,) for token_id in ids)
    return list(itertools.chain.from_iterable(parts))


JANUS_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set role = message['role'] | lower -%}"
    "{%- set parts = message['content'] -%}"
    "{%- if parts is string -%}{%- set parts = [{'type': 'text', 'text': parts}] -%}{%- endif -%}"
    "{%- set content -%}"
    "{%- for part in parts -%}"
    # Line ends divide images from what is beside them, spaces divide texts.
    "{%- if not loop.first -%}"
    "{{ '\\n' if 'image' in [part['type'], loop.previtem['type']] else ' ' }}"
    "{%- endif -%}"
    "{{ '<image_placeholder>' if part['type'] == 'image' else part['text'] | trim }}"
    "{%- endfor -%}"
    "{%- endset -%}"
    "{%- set content = content | trim -%}"
    "{%- if role == 'system' -%}"
    "{{ content + '\\n\\n' if content else '' }}"
    "{%- else -%}"
    "{%- set user = role in ['user', '<|user|>'] -%}"
    "{{ '<|User|>' if user else '<|Assistant|>' }}:{{ ' ' + content if content else '' }}"
    "{{ '\\n\\n' if user else eos_token }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|Assistant|>:{%- endif -%}"
)
"""Conversations of Janus-Pro. Begin of sentence is not part of it: the tokenizer puts it in front."""

JANUS_TEMPLATE = PromptTemplate(
    family="Janus-Pro",
    # These bars and blocks are the characters U+FF5C and U+2581, not "|" and "_".
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    pad="<｜▁pad▁｜>",
    begin_of_image="<begin_of_image>",
    end_of_image="<end_of_image>",
    image="<image_placeholder>",
    # These bars are ordinary ones.
    user="<|User|>",
    assistant="<|Assistant|>",
    # BOS is not part of the formats; the tokenizer puts its id in front.
    image_generation_format="{user}: {prompt}\n\n{assistant}:{begin_of_image}",
    question_format="{user}: {image}\n{question}\n\n{assistant}:",
    content_format="{user}: {content}\n\n{assistant}:",
    chat_template=JANUS_CHAT_TEMPLATE,
)
"""The prompts that Janus, Janus-Pro and the embedded tiny models were trained on."""
