"""Supervised learning of both tasks: questions, captions, and pictures from captions, next token by next token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind, partition
from corl_jax.core.types import Params
from corl_jax.data.pipeline import batches
from corl_jax.data.sources import RecordSource
from corl_jax.engine.hooks import Hook
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state
from corl_jax.objectives.next_token import next_token_loss
from corl_jax.objectives.token_weights import token_weights
from corl_jax.sampling.log_probs import completion_states
from corl_jax.stages.config import HookSettings, block, one_update
from corl_jax.stages.setup import Setup, open_records
from corl_jax.tasks.supervised import MakeSftBatch, SftBatch


@dataclasses.dataclass(frozen=True)
class SftSettings:
    """Rows, shares and widths as in ``tasks.supervised.MakeSftBatch``; ``drawing_weight``: of the picture loss."""

    reading_rows: int
    caption_share: float
    sloppy_share: float
    dropout: float
    drawing_length: int
    reading_length: int
    target_length: int
    drawing_weight: float


class SftStage:
    """Trains what ``trainable`` names; the image tokenizer stays as it was handed off."""

    name = "sft"

    def __init__(self, config: Mapping[str, Any], parts: Setup, optimizer: Optimizer):
        self.parts, self.optimizer, self.seed = parts, optimizer, config["seed"]
        self.batch_size, self.trainable = config["batch_size"], parts.trainable(config["trainable"])
        one_update(config)
        parts.check(trainable=self.trainable)
        self.settings = s = block(SftSettings, config["sft"], "sft")
        self.rows = {"pictures": self.batch_size, "questions": s.reading_rows}
        if s.reading_rows > self.batch_size:
            raise UserError(
                f"sft.reading_rows={s.reading_rows} is more than batch_size={self.batch_size}; lower it"
            )
        self._records = functools.partial(open_records, config, "train")
        self.supervise = MakeSftBatch(
            tokenizer=parts.tokenizer,
            image_tokens=parts.cfg.image_tokens,
            image_size=parts.cfg.vision.image_size,
            reading_rows=s.reading_rows,
            seed=self.seed,
            caption_share=s.caption_share,
            sloppy_share=s.sloppy_share,
            dropout=s.dropout,
            drawing_length=s.drawing_length,
            reading_length=s.reading_length,
            target_length=s.target_length,
            world=config["data"]["name"] == "shapes",
            share=parts.sharder.local_row_ids,
        )

    @functools.cached_property
    def train(self) -> RecordSource:
        """What is imitated, built or opened when first looked at."""
        return self._records()

    def open(self) -> None:
        """Reads records, before anything is written."""
        len(self.train)

    def init(self) -> TrainState:
        """The handed-off image tokenizer and, usually, fresh everything else."""
        return create_state(*partition(self.parts.params(), self.trainable), self.optimizer)

    def data(self) -> grain.DatasetIterator:
        """Lessons."""
        return batches(
            self.train, seed=self.seed, batch_size=self.batch_size, transform=self.supervise
        )

    def batches(
        self, state: TrainState, raw: SftBatch, step: int
    ) -> Iterator[tuple[Any, HostMetrics]]:
        """The lesson with a weight for every target, filled now that all lengths are known."""
        sharder, tokens = self.parts.sharder, self.parts.cfg.image_tokens
        lesson = sharder.put_batch(raw)
        said = token_weights(lesson.target_mask, aggregation="token_mean")
        weight = self.settings.drawing_weight / (self.batch_size * tokens)
        drawn = sharder.put_batch(np.full((len(raw.images), tokens), weight, np.float32))
        yield {"lesson": lesson, "said": said, "drawn": drawn}, {}

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Cross entropy of both heads."""
        model, ids = bind(self.parts.learner.graphdef, params), self.parts.learner.ids
        lesson = batch["lesson"]
        targets = lesson.targets[:, None]
        states = completion_states(
            model, lesson.reading, targets, ids, modality="text", shared_prefix=False
        )
        text_loss, text_log_probs = next_token_loss(
            model.text_logits(states), targets, batch["said"][:, None]
        )
        codes = jax.lax.stop_gradient(model.image_tokenizer.encode(lesson.images))[:, None]
        states = completion_states(
            model, lesson.drawing, codes, ids, modality="image", shared_prefix=False
        )
        image_loss, image_log_probs = next_token_loss(
            model.image_logits(states), codes, batch["drawn"][:, None]
        )
        mask = lesson.target_mask[:, None]
        metrics = {
            "text/nll": Weighted.of(-text_log_probs, mask),
            "image/nll": Weighted.of(-image_log_probs),
        }
        return text_loss + image_loss, metrics

    def after(self, algo: Any, metrics: Metrics) -> Any:
        """Nothing to remember."""
        return algo

    def hooks(self, settings: HookSettings) -> list[Hook]:
        """None: the base is measured by ``corl evaluate``."""
        return []
