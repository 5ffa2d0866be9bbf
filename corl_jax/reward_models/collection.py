"""The reward models that a config names, each opened once. In: where each lies; out: captioner, encoders, distances."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.reward_models.base import LoadedModel, RewardModelSpec, load_reward_model
from corl_jax.reward_models.bert.similarity import BertScore, SentenceSimilarity
from corl_jax.reward_models.bert.weights import BERT, SENTENCE
from corl_jax.reward_models.blip.captioner import Captioner
from corl_jax.reward_models.blip.weights import CAPTIONER
from corl_jax.reward_models.clip.text_image import ClipSimilarity
from corl_jax.reward_models.clip.weights import CLIP
from corl_jax.reward_models.lpips.distance import Lpips
from corl_jax.reward_models.lpips.weights import LPIPS

SPECS: Mapping[str, RewardModelSpec] = {
    "captioner": CAPTIONER,
    "bert": BERT,
    "sentence": SENTENCE,
    "clip": CLIP,
    "lpips": LPIPS,
}


class RewardModels:
    """Reward models on the mesh of the run. A name that the config leaves empty is an error once it is asked for."""

    def __init__(self, models: Mapping[str, str], sharder: Sharder):
        self._models, self._sharder = models, sharder

    def open(self, names: Iterable[str]) -> None:
        """Reads ``names``, so that what is missing is said before training.

        Raises:
          UserError: a model that is not named in the config, not there, damaged, or of another kind.
        """
        for name in names:
            operator.attrgetter(name)(self)

    def _net(self, name: str) -> LoadedModel:
        source, kind = self._models.get(name, ""), SPECS[name]
        if not source:
            raise UserError(
                f"a reward needs the model {name!r}; set config.reward.models.{name} to a folder or a hub id, for "
                f"example {kind.home} ({kind.gigabytes} GB)"
            )
        return load_reward_model(kind, source, self._sharder)

    @functools.cached_property
    def captioner(self) -> Captioner:
        """Says what pictures show."""
        return Captioner(self._net("captioner"), self._sharder)

    @functools.cached_property
    def bert(self) -> BertScore:
        """Compares texts."""
        return BertScore(self._net("bert"), self._sharder)

    @functools.cached_property
    def sentence(self) -> SentenceSimilarity:
        """Compares sentences."""
        return SentenceSimilarity(self._net("sentence"), self._sharder)

    @functools.cached_property
    def clip(self) -> ClipSimilarity:
        """Compares pictures with texts."""
        return ClipSimilarity(self._net("clip"), self._sharder)

    @functools.cached_property
    def lpips(self) -> Lpips:
        """Compares pictures."""
        return Lpips(self._net("lpips"), self._sharder)
