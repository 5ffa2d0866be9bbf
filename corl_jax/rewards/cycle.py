"""Cycle consistency: what the picture is said to show, against what was asked for (CoRL Eq. 3).

In: picture completions; out: a number each. Who says it and how it is compared are names in the config.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion
from corl_jax.data.shapes.captions import describe, parse_caption, satisfies, write
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.reward_models.bert.similarity import TextSimilarity
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.config import RewardSettings
from corl_jax.rewards.image_distance import image_distances, similarity_to_real
from corl_jax.rewards.parsing.answers import token_f1
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard
from corl_jax.rewards.shapes import pixels_of

Captioner = Callable[[Sequence[Completion], RewardContext], tuple[list[str], list[str]]]
"""To what each picture shows, and the prompt in the words that it is to be compared with."""
Similarity = Callable[[Sequence[str], Sequence[str], RewardContext], np.ndarray]
"""``(captions, prompts, context) -> [N]`` in [0, 1]."""

captioners: Registry[Captioner] = Registry("captioner")
similarities: Registry[Similarity] = Registry("text similarity")
ASK = "Describe the main content of the image in one sentence."


def check_names(settings: RewardSettings) -> None:
    """Refuses names of a captioner, a similarity or a closeness that there are not.

    Raises:
      UserError: it lists those that there are.
    """
    (
        captioners[settings.captioner],
        similarities[settings.similarity],
        image_distances[settings.closeness],
    )


@captioners.register("shapes_parser")
def shapes_parser(
    completions: Sequence[Completion], context: RewardContext
) -> tuple[list[str], list[str]]:
    """The embedded world's exact parser; both texts in canonical order, so that only what is said counts.

    A relation that the prompt asks for is said of the picture if it holds there.
    """
    captions, prompts = [], []
    for completion, seen in zip(
        completions, parse_batch(np.stack([pixels_of(c) for c in completions])), strict=True
    ):
        spec = parse_caption(completion.record.prompt)
        captions.append(
            write(spec) if spec.relation and satisfies(spec, seen) else describe(seen.scene)
        )
        prompts.append(write(spec))
    return captions, prompts


@captioners.register("blip")
def blip(completions: Sequence[Completion], context: RewardContext) -> tuple[list[str], list[str]]:
    """BLIP, as in the first version of the reference."""
    captions = context.reward_models.captioner.captions(
        np.stack([pixels_of(c) for c in completions])
    )
    return captions, [c.record.prompt for c in completions]


@captioners.register("self")
def self_(completions: Sequence[Completion], context: RewardContext) -> tuple[list[str], list[str]]:
    """The policy in training, as in the second version of the reference."""
    pictures = np.stack([pixels_of(c) for c in completions])
    return context.reader.answers(pictures, [ASK] * len(completions)), [
        c.record.prompt for c in completions
    ]


@similarities.register("token_f1")
def by_tokens(
    captions: Sequence[str], prompts: Sequence[str], context: RewardContext
) -> np.ndarray:
    """Shared words and pairs of words, see ``answers.token_f1``."""
    return np.array([token_f1(*pair) for pair in zip(captions, prompts, strict=True)])


@similarities.register("bertscore")
def by_bert(captions: Sequence[str], prompts: Sequence[str], context: RewardContext) -> np.ndarray:
    """BERTScore F1 on BERT's last layer (Zhang et al., 2020), as in the first version of the reference."""
    return np.clip(context.reward_models.bert.f1(captions, prompts), 0, 1)


@similarities.register("soft_jaccard_embedding")
def by_sentences(
    captions: Sequence[str], prompts: Sequence[str], context: RewardContext
) -> np.ndarray:
    """Mean of soft Jaccard and token F1 on a sentence encoder, as in the second version of the reference."""
    return np.clip(soft_jaccard_embedding(context.reward_models.sentence, captions, prompts), 0, 1)


def soft_jaccard_embedding(
    sentence: TextSimilarity, candidates: Sequence[str], references: Sequence[str]
) -> np.ndarray:
    """Mean of ``soft_jaccard`` and ``sentence.f1``: the text side of the cycle reward, the reference's second version.

    Args:
      sentence: a ``SentenceSimilarity`` there.
      candidates, references: as ``f1`` takes them; result and errors as there.
    """
    embedding = sentence.f1(candidates, references)
    words = [soft_jaccard(left, right) for left, right in zip(candidates, references, strict=True)]
    return (np.asarray(words, np.float32) + embedding) / 2


@rewards.register("cycle")
def cycle(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """The caption of the picture against its prompt."""
    captions, prompts = captioners[context.settings.captioner](completions, context)
    return similarities[context.settings.similarity](captions, prompts, context)


@rewards.register("cycle_both")
def cycle_both(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Both ways: the caption against the prompt, and the picture against the real one (CoRL's R_cycle).

    Their mean, or their sum under ``reward.normalise=none``, as the reference code has it.
    """
    both = cycle(completions, context) + similarity_to_real(
        completions, context.settings.closeness, context
    )
    return both if context.settings.normalise == "none" else both / 2
