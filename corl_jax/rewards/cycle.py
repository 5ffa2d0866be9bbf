"""Cycle consistency: a caption of the generated image, compared with its prompt (CoRL Eq. 3).

In: image completions; out: one number each. The config names the captioner that describes the
image and the text similarity that compares caption and prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Float

from corl_jax.core.checks.config_block import OneOf, check_value
from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion
from corl_jax.data.shapes.captions import canonical_caption, parse_caption, satisfies, write_caption
from corl_jax.data.shapes.parser import parse_batch
from corl_jax.reward_models.bert.similarity import TextSimilarity
from corl_jax.rewards.base import RewardContext, pixels_of, rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.image_distance import image_distances, similarity_to_real_image
from corl_jax.rewards.parsing.answers import token_f1
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard

CaptionsAndPrompts = tuple[list[str], list[str]]
Captioner = Callable[[Sequence[Completion], RewardContext], CaptionsAndPrompts]
"""From ``N`` image completions to ``N`` captions and ``N`` prompts, worded so that they compare."""
Similarity = Callable[[Sequence[str], Sequence[str], RewardContext], np.ndarray]
"""``(captions, prompts, context) -> [N]`` in [0, 1]."""

captioners: Registry[Captioner] = Registry("captioner")
similarities: Registry[Similarity] = Registry("text similarity")

CAPTION_QUESTION = "Describe the main content of the image in one sentence."


def check_reward_options(options: RewardOptions) -> None:
    """Checks that captioner, text similarity and image distance are registered names.

    Raises:
      FieldError: one of them is not; the error lists the registered names.
    """
    tables: Mapping[str, Iterable[str]] = {
        "captioner": captioners,
        "similarity": similarities,
        "image_distance": image_distances,
    }
    for name, table in tables.items():
        check_value(name, vars(options)[name], Annotated[str, OneOf(table)])


@captioners.register("shapes_parser")
def caption_with_shapes_parser(
    completions: Sequence[Completion], context: RewardContext
) -> CaptionsAndPrompts:
    """Captions from the exact parser of the shapes world.

    Both texts are in canonical order, so that only their content counts. The caption has the
    prompt's relation if the image shows what the prompt says.
    """
    parsed_images = parse_batch(np.stack([pixels_of(completion) for completion in completions]))

    captions, prompts = [], []
    for completion, parsed in zip(completions, parsed_images, strict=True):
        spec = parse_caption(completion.record.prompt)
        # ``canonical_caption`` never has a relation: a true one comes from the prompt.
        true_relation = spec.relation and satisfies(spec, parsed)
        captions.append(write_caption(spec) if true_relation else canonical_caption(parsed.scene))
        prompts.append(write_caption(spec))
    return captions, prompts


@captioners.register("blip")
def caption_with_blip(
    completions: Sequence[Completion], context: RewardContext
) -> CaptionsAndPrompts:
    """Captions by BLIP, as in the first version of ULM-R1's code."""
    images = np.stack([pixels_of(completion) for completion in completions])
    captions = context.reward_models.captioner.captions(images)
    return captions, [completion.record.prompt for completion in completions]


@captioners.register("self")
def caption_with_policy(
    completions: Sequence[Completion], context: RewardContext
) -> CaptionsAndPrompts:
    """Captions by the policy in training, as in the second version of ULM-R1's code."""
    images = np.stack([pixels_of(completion) for completion in completions])
    captions = context.policy_handle.answers(images, [CAPTION_QUESTION] * len(completions))
    return captions, [completion.record.prompt for completion in completions]


@similarities.register("token_f1")
def token_f1_similarity(
    captions: Sequence[str], prompts: Sequence[str], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """F1 of shared words and pairs of words, see ``answers.token_f1``."""
    return np.array(
        [token_f1(caption, prompt) for caption, prompt in zip(captions, prompts, strict=True)]
    )


@similarities.register("bertscore")
def bertscore_similarity(
    captions: Sequence[str], prompts: Sequence[str], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """BERTScore F1 on BERT's last layer (Zhang et al., 2020), as in ULM-R1's first version."""
    return np.clip(context.reward_models.bert.f1(captions, prompts), 0, 1)


@similarities.register("soft_jaccard_embedding")
def soft_jaccard_embedding_similarity(
    captions: Sequence[str], prompts: Sequence[str], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """``soft_jaccard_embedding`` with the sentence encoder, as in ULM-R1's second version."""
    return np.clip(soft_jaccard_embedding(context.reward_models.sentence, captions, prompts), 0, 1)


def soft_jaccard_embedding(
    sentence: TextSimilarity, candidates: Sequence[str], references: Sequence[str]
) -> Float[np.ndarray, "N"]:
    """Mean of ``soft_jaccard`` and ``sentence.f1``, the text side of ULM-R1's second cycle reward.

    Args:
      sentence: a ``SentenceSimilarity``.
      candidates: ``N`` texts, e.g. captions of generated images.
      references: ``N`` texts, e.g. prompts.

    Returns:
      float32 ``[N]``.

    Raises:
      UserError: there are not as many candidates as references.
    """
    # Similarity of meaning, then of spelling, both in [0, 1].
    embedding_f1 = sentence.f1(candidates, references)
    word_overlaps = [
        soft_jaccard(candidate, reference)
        for candidate, reference in zip(candidates, references, strict=True)
    ]
    return (np.asarray(word_overlaps, np.float32) + embedding_f1) / 2


@rewards.register("cycle")
def cycle(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """Similarity of the image's caption and its prompt."""
    # The captioner also words the prompts, so that both texts have the same style.
    captions, prompts = captioners[context.options.captioner](completions, context)
    return similarities[context.options.similarity](captions, prompts, context)


@rewards.register("cycle_both")
def cycle_both(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """Both directions: the caption against the prompt, the image against the real one (R_cycle).

    The mean of the two, or their sum under ``normalization=none``, as in ULM-R1's code.
    """
    # Text side: what does the image show? Image side: how close is it to the record's image?
    text_similarity = cycle(completions, context)
    image_similarity = similarity_to_real_image(
        completions, context.options.image_distance, context
    )
    total = text_similarity + image_similarity
    return total if context.options.normalization == "none" else total / 2
