"""Answers as a harness asks for them: its settings, where answers end, many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corl_jax.core.checks.config_block import PositiveInt, check_value
from corl_jax.core.errors import UserError
from corl_jax.objectives.sampling_distribution import SamplingParams, check_sampling_params
from corl_jax.sampling.policy import Policy
from corl_jax.suites.calls import answer_batch, prompts_of_batches
from corl_jax.suites.requests import Request, check_lengths, plan_batches

MAX_NEW_TOKENS = 1024
"""Longest answer where a task does not say, as most models of lmms-eval have it."""

READ = ("max_new_tokens", "until", "do_sample", "temperature", "top_p", "top_k")
"""Settings that change answers."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0),
    "skip_special_tokens": (None, True),
}
"""Settings that may only have these values, those of what is done here."""

OTHERS = ("image_aspect_ratio",)
"""Settings of how LLaVA cuts pictures, which mean nothing to other models."""


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How answers are sampled.

    Attributes:
      max_new_tokens: longest answer.
      temperature: 0 is greedy.
      top_p, top_k: of what is sampled from; 1 and 0 keep all.
      until: an answer ends before the first of these texts.
    """

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    until: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: Mapping[str, Any], location: str) -> GenerationOptions:
        """The options in ``generation_kwargs``, named and understood as in Transformers.

        Raises:
          UserError: a setting that is not known here or out of range; ``location`` names the task.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        _check_names(given, location)

        # Greedy unless a task samples; then what it does not say is as in Transformers.
        sampled = given.get("do_sample", given.get("temperature", 0) > 0)
        temperature = float(given.get("temperature", 1.0)) if sampled else 0.0
        until = given.get("until", ())
        try:
            options = cls(given.get("max_new_tokens", MAX_NEW_TOKENS), temperature)
            if temperature > 0:
                options = dataclasses.replace(
                    options, top_p=float(given.get("top_p", 1.0)), top_k=int(given.get("top_k", 0))
                )
            check_value("max_new_tokens", options.max_new_tokens, PositiveInt)
            check_sampling_params(
                guidance_scale=1.0, temperature=options.temperature, top_p=options.top_p
            )
        except UserError as error:
            raise UserError(f"{location}: {error}") from None

        # An empty text would end every answer before its first letter.
        ends = (until,) if isinstance(until, str) else tuple(until)
        return dataclasses.replace(options, until=tuple(filter(None, ends)))

    def sampling(self, policy: Policy) -> SamplingParams:
        """The distribution of text tokens."""
        params = policy.fns.sampling_params("text", temperature=self.temperature)
        return dataclasses.replace(params, top_p=self.top_p, top_k=self.top_k)

    def cut(self, text: str) -> str:
        """An answer up to the first of the texts that end it."""
        ends = [text.find(end) for end in self.until if end in text]
        return text[: min(ends)] if ends else text


def _check_names(given: Mapping[str, Any], location: str) -> None:
    """Refuses settings that would be ignored though they change answers."""
    for name, value in given.items():
        if name in READ or name in OTHERS:
            continue
        allowed = [value for value in NEUTRAL.get(name, ()) if value is not None]
        if value not in allowed:
            known = ", ".join((*READ, *OTHERS))
            needed = f"{name} must be {allowed[0]}" if allowed else f"settings must be of {known}"
            raise UserError(
                f"{location}: {needed}; got {name}={value!r}. Change generation_kwargs of the task"
            )


def generate_answers(
    policy: Policy,
    requests: Sequence[Request],
    options: Sequence[GenerationOptions],
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], object],
) -> list[str]:
    """Answers to all requests, in their order, as the policy wrote them.

    Args:
      options: one per request; those with the same share calls.
      batch_size: rows of a call.
      seed: of sampling; a request's place gives the rest of its key.
      on_batch: told how many requests have been answered.

    Raises:
      UserError: a prompt that is too long, or a picture that cannot be read.
    """
    places: dict[GenerationOptions, list[int]] = {}
    for place, chosen in enumerate(options):
        places.setdefault(chosen, []).append(place)
    for chosen, rows in places.items():
        group = [requests[row] for row in rows]
        check_lengths(policy, group, chosen.max_new_tokens, "max_new_tokens")

    answers: dict[int, str] = {}
    with policy.on_devices():
        for chosen, rows in places.items():
            batches = plan_batches(requests, batch_size, rows)
            sampling, length = chosen.sampling(policy), chosen.max_new_tokens
            for batch, prompts in prompts_of_batches(policy, requests, batches, batch_size):
                new = answer_batch(policy, prompts, batch, sampling, length, seed)
                texts = [answer.text for answer in new]
                answers.update(zip(batch.rows, texts, strict=True))
                on_batch(len(batch.rows))
    return [answers[place] for place in range(len(requests))]
