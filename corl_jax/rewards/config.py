"""Options that several rewards share, read from the block ``rewards.options`` of a config and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from corl_jax.core.checks.config_block import Interval, Keys, OneOf, PositiveInt, config_block

NORMALIZATIONS = ("unit", "none", "running")
OPEN_ENDED = ("exact", "soft_jaccard")
JUDGES = ("reference", "policy")
LIKELIHOOD_BASELINES = ("none", "blank")
REWARD_MODELS = ("captioner", "bert", "sentence", "clip", "hps", "lpips")


@config_block
class RewardOptions:
    """The options that several rewards share.

    ``captioner``, ``similarity`` and ``image_distance`` are names in the registries of ``rewards.cycle``
    and ``rewards.image_distance``, which ``cycle.check_reward_options`` checks.

    Attributes:
      normalization: ``unit`` maps each part of an image reward to [0, 1], as CoRL's camera-ready paper
        says. ``none`` leaves the values of ULM-R1's code (sums and cosines). ``running`` subtracts
        from every reward its mean over the run so far and divides by its standard deviation; both
        are kept in the train state.
      captioner: describes the image for ``cycle``: ``shapes_parser``, ``blip`` or ``self`` (the
        policy in training).
      similarity: compares the caption with the prompt: ``token_f1``, ``bertscore`` or
        ``soft_jaccard_embedding``.
      image_distance: compares two images for ``cycle_both`` and ``pixel``: ``rmse``, ``mse``, ``ssim``,
        ``psnr`` or ``lpips``.
      strict_whitespace: whether white space around the tags costs the format reward, as in
        ULM-R1's code.
      open_ended: what ``accuracy`` gives for a wrong answer to an open question: 0 with ``exact``;
        with ``soft_jaccard`` the overlap of its words with the reference answer, as in ULM-R1's
        code.
      overlong_buffer: tokens before the longest length of an answer in which ``overlong`` falls from 0
        to -1.
      likelihood_judge: whose log-probs ``prompt_likelihood`` and ``picture_likelihood`` take:
        ``reference``, the policy that the run starts from, or ``policy``, the one in training.
      likelihood_baseline: ``blank`` subtracts the log-prob that the same tokens have where there is
        nothing to read: behind a grey image, or behind a prompt without words.
      timeout: seconds that a reward may take for all completions of a process; 0 for any time. One
        that hangs ends the run with its name, after a checkpoint of the last whole step.
      custom: the user's rewards as ``module:function``; each is registered under the function's name.
      models: reward model name to its source: a folder, a hub id, ``tiny`` (random weights) or ""
        for none.
    """

    normalization: Annotated[str, OneOf(NORMALIZATIONS)] = "unit"
    captioner: str = "shapes_parser"
    similarity: str = "token_f1"
    image_distance: str = "rmse"
    strict_whitespace: bool = False
    open_ended: Annotated[str, OneOf(OPEN_ENDED)] = "exact"
    overlong_buffer: PositiveInt = 128
    likelihood_judge: Annotated[str, OneOf(JUDGES)] = "reference"
    likelihood_baseline: Annotated[str, OneOf(LIKELIHOOD_BASELINES)] = "none"
    timeout: Annotated[float, Interval(ge=0, le=1e7)] = 600.0
    custom: tuple[str, ...] = ()
    models: Annotated[Mapping[str, str], Keys(REWARD_MODELS)] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(REWARD_MODELS, "")
    )
