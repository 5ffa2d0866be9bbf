"""The data types that cross rooms, and the alphabet of dimensions.

Alphabet, used in annotations and as suffixes of names:

====  =======================================  ====  ===========================
``B``  prompts                                  ``D``  width
``G``  samples per prompt (the group)           ``H``  query heads
``N``  rows, ``B * G``                          ``K``  key/value heads
``P``  prompt length                            ``C``  head size
``T``  completion length                        ``F``  feed-forward width
``L``  ``P + T`` or any sequence length         ``V``  text vocabulary
``S``  image tokens per picture                 ``I``  image codebook size
``Y``  layers                                   ``Z``  code size
``R``  rewards
====  =======================================  ====  ===========================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.tree_util import register_dataclass

Params = dict[str, jax.Array]
"""Parameters as a flat dictionary: slash-separated path to array, e.g. ``language_model/norm/scale``."""

Modality = Literal["image", "text"]


C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def pytree(*static: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: a frozen dataclass registered as a pytree; ``static`` fields shape the program."""

    def wrap(cls: Any) -> Any:
        cls = dataclasses.dataclass(frozen=True)(cls)
        data = [f.name for f in dataclasses.fields(cls) if f.name not in static]
        return register_dataclass(cls, data_fields=data, meta_fields=list(static))

    return wrap


@dataclasses.dataclass(frozen=True)
class Record:
    """One example on the host; the columns of ``x2x_rft_22k`` under names of our own.

    Attributes:
      id: unique within a source.
      prompt: caption that text-to-image is asked to draw.
      image: uint8 ``[H, W, 3]``, the real picture.
      question: the question about the picture, options included for multiple choice.
      answer: reference answer, bare (a letter for multiple choice).
      qa_type: ``"MC"`` (multiple choice) or ``"OE"`` (open ended).
      choices: texts of the options A, B, ... for multiple choice, else empty.
      kind: what the question is about (count, colour, ...); free text used for break-downs.
      class_question, class_answer: asks which classes of objects the picture shows, and the classes; "" for none.
      box_question, box_answer: asks where objects are, and their boxes; "" for none.
      solution: the whole text that supervised training imitates, tags and all; "" for none.
    """

    id: str
    prompt: str
    image: np.ndarray
    question: str
    answer: str
    qa_type: Literal["MC", "OE"]
    choices: tuple[str, ...] = ()
    kind: str = ""
    class_question: str = ""
    class_answer: str = ""
    box_question: str = ""
    box_answer: str = ""
    solution: str = ""


@pytree()
class Prompts:
    """Left-padded prompts: ``tokens [B, P]`` int32, ``mask [B, P]`` bool, ``images [B, H, W, 3]`` or None."""

    tokens: Any
    mask: Any
    images: Any = None


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """What a task asks of a batch of records: device-ready prompts and the records they came from, row by row."""

    prompts: Prompts
    records: tuple[Record, ...]


@pytree("modality")
class Rollout:
    """What the policy wrote.

    Attributes:
      tokens: int32 ``[B, G, T]``.
      mask: bool ``[B, G, T]``, true up to and including the end token; all true for images.
      log_probs: float32 ``[B, G, T]`` under the distribution that was sampled from.
      pixels: uint8 ``[B, G, H, W, 3]`` for images, None for text.
      modality: ``"image"`` or ``"text"``.
    """

    tokens: Any
    mask: Any
    log_probs: Any
    pixels: Any
    modality: Modality


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample on the host, as a reward sees it: ``text`` or ``pixels`` (uint8 ``[H, W, 3]``), and its Record."""

    record: Record
    text: str | None = None
    pixels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Rewards of ``N`` completions: ``matrix [N, R]``, ``names`` of the columns, ``total [N]`` the weighted sum."""

    names: tuple[str, ...]
    matrix: np.ndarray
    total: np.ndarray


@pytree()
class PolicyBatch:
    """One task's share of an update.

    Attributes:
      prompts: what was asked, ``B`` rows.
      tokens: int32 ``[B, G, T]`` completions.
      mask: bool ``[B, G, T]`` which of their positions were sampled.
      sampler_log_probs: ``[B, G, T]`` as the sampler saw them, for the mismatch metric alone.
      old_log_probs: ``[B, G, T]`` of the policy that sampled, replayed by the scorer; None for one update per rollout.
      ref_log_probs: ``[B, G, T]`` of the reference, or None when the KL coefficient is 0 throughout.
      advantages: ``[B, G]``.
      weights: ``[B, G, T]``; zero where masked, and over the whole step summing to the task's share.
      rewards: ``[B, G, R]``, part by part, where their moments are kept; else None.
    """

    prompts: Prompts
    tokens: Any
    mask: Any
    sampler_log_probs: Any
    old_log_probs: Any
    ref_log_probs: Any
    advantages: Any
    weights: Any
    rewards: Any = None


class PolicyHandle(Protocol):
    """The narrow view of the policy that a reward may use."""

    def token_states(
        self, images: np.ndarray, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """States of pictures and texts read together.

        Args:
          images: uint8 ``[N, H, W, 3]``.
          texts: ``N`` captions.

        Returns:
          image states ``[N, S, D]``, image mask ``[N, S]``, text states ``[N, L, D]``, text mask ``[N, L]``.
        """
        ...

    def answers(self, images: np.ndarray, questions: list[str]) -> list[str]:
        """What the policy answers, greedily.

        Args:
          images: uint8 ``[N, H, W, 3]``.
          questions: ``N`` of them.
        """
        ...
