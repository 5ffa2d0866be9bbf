"""The reward models of a run, by the names that a config gives them; each is loaded once.

In: a source (folder, hub id or ``tiny``) for each name. Out: captioner, encoders and distances.
"""

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
from corl_jax.reward_models.clip.hps import HPS
from corl_jax.reward_models.clip.text_image import ClipSimilarity
from corl_jax.reward_models.clip.weights import CLIP
from corl_jax.reward_models.lpips.distance import LpipsDistance
from corl_jax.reward_models.lpips.weights import LPIPS

SPECS: Mapping[str, RewardModelSpec] = {
    "captioner": CAPTIONER,
    "bert": BERT,
    "sentence": SENTENCE,
    "clip": CLIP,
    "hps": HPS,
    "lpips": LPIPS,
}
"""Every kind of reward model by its name in a config; ``RewardModels`` has a property for each."""


class RewardModels:
    """The reward models of a run, each loaded when it is first used."""

    def __init__(self, sources: Mapping[str, str], sharder: Sharder):
        """Loads nothing yet.

        Args:
          sources: folder, hub id or ``tiny`` by name in ``SPECS``; empty for a model that is not
            used.
          sharder: the mesh of the run.
        """
        self._sources = sources
        self._sharder = sharder

    def load(self, names: Iterable[str]) -> None:
        """Loads the models ``names`` now, so that a missing one is reported before training.

        Raises:
          UserError: the config does not name a model, or its folder is missing, damaged or holds
            another kind of model.
        """
        for name in names:
            # Reading the cached property of that name loads the model.
            operator.attrgetter(name)(self)

    def _load(self, name: str) -> LoadedModel:
        # A name that the config leaves empty is an error once a reward needs the model.
        source = self._sources.get(name, "")
        spec = SPECS[name]
        if not source:
            raise UserError(
                f"config.rewards.options.models.{name} must be a folder or a hub id, since a reward "
                f"needs this model; got nothing. Set it, for example, to {spec.hub_id} "
                f"({spec.download_gb} GB)"
            )
        return load_reward_model(spec, source, self._sharder)

    @functools.cached_property
    def captioner(self) -> Captioner:
        """Writes captions of images."""
        return Captioner(self._load("captioner"), self._sharder)

    @functools.cached_property
    def bert(self) -> BertScore:
        """Compares texts with BERTScore."""
        return BertScore(self._load("bert"), self._sharder)

    @functools.cached_property
    def sentence(self) -> SentenceSimilarity:
        """Compares texts on the states of a sentence encoder."""
        return SentenceSimilarity(self._load("sentence"), self._sharder)

    @functools.cached_property
    def clip(self) -> ClipSimilarity:
        """Compares images with texts."""
        return ClipSimilarity(self._load("clip"), self._sharder)

    @functools.cached_property
    def hps(self) -> ClipSimilarity:
        """Compares images with texts as people prefer them."""
        return ClipSimilarity(self._load("hps"), self._sharder)

    @functools.cached_property
    def lpips(self) -> LpipsDistance:
        """Compares images with images."""
        return LpipsDistance(self._load("lpips"), self._sharder)
