"""How rewards are made, as read from a config. In: the block ``reward``; out: ``RewardSettings``, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from corl_jax.core.errors import UserError

NORMALISE = ("unit", "none", "running")
OPEN_ENDED = ("exact", "soft_jaccard")
MODELS = ("captioner", "bert", "sentence", "clip", "lpips")


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """The choices that several rewards share; names are those of registries in this room.

    Attributes:
      normalise: ``unit`` maps each part of a picture's reward to [0, 1], as CoRL's camera-ready says; ``none`` leaves
        what the reference code has (sums, cosines); ``running`` subtracts from every reward its mean over the run so
        far and divides by its standard deviation, both kept in the train state.
      captioner: says what a picture shows, for ``cycle``: ``shapes_parser``, ``blip``, ``self``.
      similarity: compares that with the prompt: ``token_f1``, ``bertscore``, ``soft_jaccard_embedding``.
      closeness: compares two pictures, for ``cycle_both``: ``rmse``, ``mse``, ``ssim``, ``psnr``, ``lpips``.
      strict_whitespace: whether white space around the tags costs the format reward, as in the reference code.
      open_ended: what ``accuracy`` gives a wrong open answer: ``exact`` nothing, ``soft_jaccard`` the part of its words
        that it shares with the reference, as in the reference code.
      own: the user's rewards, ``module:function``; a reward is called like its function.
      models: reward model to where it lies: a folder, a hub id, ``tiny`` (random) or "" for none.
    """

    normalise: str = "unit"
    captioner: str = "shapes_parser"
    similarity: str = "token_f1"
    closeness: str = "rmse"
    strict_whitespace: bool = False
    open_ended: str = "exact"
    own: tuple[str, ...] = ()
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.normalise not in NORMALISE:
            raise UserError(
                f"reward.normalise={self.normalise!r} is unknown; expected one of {', '.join(NORMALISE)}"
            )
        if self.open_ended not in OPEN_ENDED:
            raise UserError(
                f"reward.open_ended={self.open_ended!r} is unknown; expected {' or '.join(OPEN_ENDED)}"
            )
        if wrong := sorted(set(self.models) - set(MODELS)):
            raise UserError(
                f"reward.models has {wrong[0]!r}, which no reward uses; expected {', '.join(MODELS)}"
            )
