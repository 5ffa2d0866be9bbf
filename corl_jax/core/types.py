"""The data types that several rooms share, and the letters of array dimensions.

The letters are used in shape annotations and as suffixes of names:

=====  ==============================  =====  ===================
``B``  prompts                         ``D``  width
``G``  completions per prompt (group)  ``H``  query heads
``N``  rows, ``B * G``                 ``K``  key/value heads
``P``  prompt length                   ``C``  head size
``T``  completion length               ``F``  feed-forward width
``L``  ``P + T``, or any sequence      ``V``  text vocabulary
``S``  image tokens per image          ``I``  image codebook size
``Y``  layers                          ``Z``  code size
``R``  rewards
=====  ==============================  =====  ===================
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.tree_util import register_dataclass

# Parameters as a flat dictionary: path to array, e.g. ``language_model/norm/scale``.
Params = dict[str, jax.Array]

# What a task generates: ``image`` is text-to-image, ``text`` is visual question answering.
Modality = Literal["image", "text"]

# Whose log-probs a reward takes: those of the policy that the run starts from, or of the one in training.
Judge = Literal["reference", "policy"]

# Multiple choice and open ended.
QaType = Literal["MC", "OE"]

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def pytree(*static: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: a frozen dataclass that is registered as a pytree.

    Args:
      *static: fields that are metadata and not leaves; a jitted function is compiled anew for each
        of their values.
    """

    def wrap(cls: Any) -> Any:
        # Frozen, since JAX rebuilds the object from its leaves in every transformation.
        cls = dataclasses.dataclass(frozen=True)(cls)
        leaves = [f.name for f in dataclasses.fields(cls) if f.name not in static]
        return register_dataclass(cls, data_fields=leaves, meta_fields=list(static))

    return wrap


@dataclasses.dataclass(frozen=True)
class Record:
    """One example on the host. The fields are the columns of ``x2x_rft_22k`` under other names.

    Attributes:
      id: unique within a source.
      prompt: caption from which text-to-image generates an image; "" if there is none.
      image: uint8 ``[H, W, 3]``, the real image; None if there is none.
      question: the question about the image, "" if there is none; for multiple choice it includes
        the options.
      answer: reference answer without its options or tags (a letter for multiple choice).
      qa_type: ``"MC"`` (multiple choice) or ``"OE"`` (open ended).
      choices: texts of the options A, B, ... for multiple choice, else empty.
      kind: what the question is about (count, colour, ...); free text used for break-downs.
      class_question, class_answer: the question which classes of objects the image shows, and the
        classes; "" if absent.
      box_question, box_answer: the question where objects are, and their boxes; "" if absent.
      solution: the text that supervised training imitates, with its tags; "" if absent.
      location: line and file that the record comes from, for error texts; "" for none.
      template: how its questions are put, see ``data.question_templates``; the questions are as
        the data have them.
    """

    id: str
    prompt: str
    image: np.ndarray | None
    question: str
    answer: str
    qa_type: QaType
    choices: tuple[str, ...] = ()
    kind: str = ""
    class_question: str = ""
    class_answer: str = ""
    box_question: str = ""
    box_answer: str = ""
    solution: str = ""
    location: str = ""
    template: str = "as_is"

    def with_id(self, record_id: str) -> Record:
        """The same record under another id; an image that is not decoded yet stays so."""
        record = copy.copy(self)
        object.__setattr__(record, "id", record_id)
        return record


COLUMN_FIELDS = tuple(
    f.name for f in dataclasses.fields(Record) if f.name not in ("location", "template")
)
"""Fields of a ``Record`` that columns of a data set fill: the keys of ``config.data.columns``."""


@pytree()
class Prompts:
    """Prompts as arrays, padded on the left.

    Attributes:
      tokens: int32 ``[B, P]``.
      mask: bool ``[B, P]``, the prompt mask; False on the padding.
      images: ``[B, H, W, 3]``, one image per prompt; ``[B, M, H, W, 3]``, at most ``M``, the rest of a
        row unused; None for prompts without an image.
    """

    tokens: Any
    mask: Any
    images: Any = None


@dataclasses.dataclass(frozen=True)
class PromptBatch:
    """The prompts of one task, together with the records from which they were made.

    Attributes:
      prompts: ``B`` rows.
      records: the record of each row.
    """

    prompts: Prompts
    records: tuple[Record, ...]


@pytree("modality")
class Rollout:
    """Completions that were sampled for a batch of prompts, ``G`` per prompt.

    Attributes:
      tokens: int32 ``[B, G, T]``, image tokens or text tokens.
      mask: bool ``[B, G, T]``, the completion mask: True up to and including the end token; all
        True for images.
      log_probs: float32 ``[B, G, T]``, log-probs of the tokens under the distribution from which
        they were sampled.
      pixels: uint8 ``[B, G, H, W, 3]`` for images, None for text.
      modality: ``"image"`` or ``"text"``.
      is_external: bool ``[B, G]``, which samples the policy did not draw; None where it drew all.
        Their ``log_probs`` mean nothing.
    """

    tokens: Any
    mask: Any
    log_probs: Any
    pixels: Any
    modality: Modality
    is_external: Any = None


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion on the host, as a reward function sees it.

    Attributes:
      record: the record from which its prompt was made.
      text: the decoded answer, for ``text``.
      pixels: the image, uint8 ``[H, W, 3]``, for ``image``.
      is_truncated: whether the answer was cut at the limit of its length.
      length: tokens of the answer, end token included; None where it did not come from a policy.
      max_length: the limit of its length in tokens; None likewise.
    """

    record: Record
    text: str | None = None
    pixels: np.ndarray | None = None
    is_truncated: bool = False
    length: int | None = None
    max_length: int | None = None


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Rewards of ``N`` completions.

    Attributes:
      names: the ``R`` rewards, one per column of ``matrix``.
      matrix: ``[N, R]``.
      total: ``[N]``, the weighted sum over the rewards.
    """

    names: tuple[str, ...]
    matrix: np.ndarray
    total: np.ndarray


@pytree()
class PolicyBatch:
    """One part of an update batch: the completions of a task, or what belongs to them.

    Attributes:
      prompts: ``B`` rows.
      tokens: int32 ``[B, G, T]``, the completions.
      mask: bool ``[B, G, T]``, the completion mask: which positions were sampled.
      sampler_log_probs: ``[B, G, T]``, as the sampler computed them: for the metric
        ``sampler_logp_diff`` and for importance weights.
      old_log_probs: ``[B, G, T]``, teacher-forced log-probs of the policy that sampled; None when
        each rollout is used for one update only and no KL term is in the rewards.
      ref_log_probs: ``[B, G, T]`` of the reference policy; None without a KL term.
      advantages: ``[B, G]``.
      weights: ``[B, G, T]``, the weight of each token in the task's loss, 0 where masked; see
        ``objectives.token_weights``.
      rewards: ``[B, G, R]``, every reward by itself, where running moments of the rewards are kept;
        else None.
      is_external: as in ``Rollout``.
      advantage_factors, kl_factors: ``[B, G, T]``, what a token's advantage and its KL term are
        multiplied with, of images whose tokens do not all have the same credit; else None.
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
    is_external: Any = None
    advantage_factors: Any = None
    kl_factors: Any = None

    @classmethod
    def build(
        cls,
        prompts: Prompts,
        rollout: Rollout,
        *,
        weights: Any,
        advantages: Any = None,
        old_log_probs: Any = None,
        ref_log_probs: Any = None,
    ) -> PolicyBatch:
        """The part of a task, with what its rollout provides filled in."""
        return cls(
            prompts=prompts,
            tokens=rollout.tokens,
            mask=rollout.mask,
            sampler_log_probs=rollout.log_probs,
            old_log_probs=old_log_probs,
            ref_log_probs=ref_log_probs,
            advantages=advantages,
            weights=weights,
            is_external=rollout.is_external,
        )

    @property
    def own_mask(self) -> Any:
        """``mask`` without the tokens of external samples."""
        return self.mask if self.is_external is None else self.mask & ~self.is_external[..., None]


class PolicyHandle(Protocol):
    """What a reward function may ask of the policy."""

    def matching_scores(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        """How well image and text match, read in one sequence; see ``objectives.token_matching``.

        Args:
          images: uint8 ``[N, H, W, 3]``.
          texts: ``N`` captions.

        Returns:
          float32 ``[N]`` in [-1, 1].
        """
        ...

    def answers(self, images: np.ndarray, questions: list[str]) -> list[str]:
        """The policy's greedy answer to each question.

        Args:
          images: uint8 ``[N, H, W, 3]``.
          questions: ``N`` questions, one per image.
        """
        ...

    def prompt_log_probs(self, images: np.ndarray, texts: list[str], judge: Judge) -> np.ndarray:
        """Mean log-prob of a text's tokens behind an image, which is read as in a question.

        Args:
          images: uint8 ``[N, H, W, 3]``.
          texts: ``N`` texts.
          judge: whose probabilities they are.

        Returns:
          float32 ``[N]``, in nats per token; see ``sampling.likelihood``.
        """
        ...

    def picture_log_probs(
        self, texts: list[str], images: Sequence[np.ndarray], judge: Judge
    ) -> np.ndarray:
        """Mean log-prob of an image's tokens where the text is its prompt, without guidance.

        Args:
          texts: ``N`` texts; one without words is a prompt without words.
          images: ``N`` uint8 ``[h, w, 3]`` of any sizes, cropped as images that are drawn.
          judge: whose probabilities they are.

        Returns:
          float32 ``[N]``, in nats per token.
        """
        ...
