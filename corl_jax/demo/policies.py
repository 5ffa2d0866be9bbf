"""The policies of the page: each is loaded once, and their programs compile at first use."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax

from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.demo.answering import Question
from corl_jax.demo.drawing import DrawRequest
from corl_jax.sampling.policy import Policy

T = TypeVar("T")

SMALL_PARAMS = 5 * 10**8
SMALL_WAIT, LARGE_WAIT = "about 5 s", "a minute or more"
"""What compiling takes before anything was measured here, up to and above ``SMALL_PARAMS``."""


class Program(NamedTuple):
    """What decides the shape of a compiled program.

    Attributes:
      policy: its name.
      task: ``image`` or ``text``.
      width: of the prompt, in tokens with padding.
      size: pictures, or the longest answer in tokens.
      is_guided: whether the guidance scale is another than 1.
    """

    policy: str
    task: str
    width: int
    size: int
    is_guided: bool


@dataclasses.dataclass
class Policies:
    """The first policy, for the whole time, and one more to compare it with.

    Attributes:
      first: name of the first one.
      devices: that share a policy.
      loaded: by name.
      second: name of the other one, "" for none.
      compiled: seconds of the first call of each program.
    """

    first: str
    devices: int = 1
    loaded: dict[str, Policy] = dataclasses.field(default_factory=dict)
    second: str = ""
    compiled: dict[Program, float] = dataclasses.field(default_factory=dict)

    def get(self, name: str = "") -> Policy:
        """A policy; it is loaded if it is not there, and another second one is dropped.

        Args:
          name: of ``Policy.load``; "" is the first one.

        Raises:
          UserError: as ``Policy.load``.
        """
        name = name or self.first
        if name not in self.loaded:
            # Two at most, since a device has memory for few.
            if name != self.first and self.second:
                self.loaded.pop(self.second, None)
                self.compiled = {
                    program: seconds
                    for program, seconds in self.compiled.items()
                    if program.policy != self.second
                }
            self.loaded[name] = Policy.load(name, devices=self.devices)
            self.second = self.second if name == self.first else name
        return self.loaded[name]

    def drawing_program(self, request: DrawRequest, name: str = "") -> Program:
        """What compiles for a request.

        Raises:
          UserError: a prompt that is empty or has unknown words.
        """
        tokenizer = self.get(name).tokenizer
        width = _width(tokenizer.image_generation_prompt(request.prompt), tokenizer.pad_id)
        is_guided = request.guidance != 1
        return Program(name or self.first, "image", width, request.samples, is_guided)

    def answering_program(self, question: Question, name: str = "") -> Program:
        """What compiles for a question; errors as for ``drawing_program``."""
        policy = self.get(name)
        ids = policy.tokenizer.question_prompt(question.text, policy.cfg.image_tokens)
        width = _width(ids, policy.tokenizer.pad_id)
        return Program(name or self.first, "text", width, question.max_tokens, False)

    def wait(self, program: Program) -> str:
        """A sentence about the time that a program takes to compile; "" if it is compiled."""
        if program in self.compiled:
            return ""
        # The last one measured of the same policy and task is the best guess.
        similar = [seconds for key, seconds in self.compiled.items() if key[:2] == program[:2]]
        if similar:
            seconds = max(1, round(similar[-1]))
            return f"These settings compile a program of their own, about {seconds} s."
        thing = "picture" if program.task == "image" else "answer"
        guess = self.guess(program.policy)
        return f"The first {thing} compiles its program, {guess}; later ones are quick."

    def guess(self, name: str = "") -> str:
        """How long compiling takes, by the size of a policy."""
        size = sum(param.size for param in self.get(name).params.values())
        return SMALL_WAIT if size < SMALL_PARAMS else LARGE_WAIT

    def run(self, program: Program, action: Callable[[], T]) -> T:
        """Runs ``action``, a call of ``program``, and keeps how long its first call takes.

        Raises:
          UserError: as ``action``, or the device has too little memory.
        """
        started = time.monotonic()
        try:
            result = action()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                "the device must have more memory for this; it has no room left "
                f"({describe_error(error, 120)}); ask for fewer pictures or shorter answers"
            ) from error
        self.compiled.setdefault(program, time.monotonic() - started)
        return result


def _width(ids: list[int], pad_id: int) -> int:
    """The width to which ``Policy`` pads a prompt."""
    return left_pad([ids], pad_id)[0].shape[1]
