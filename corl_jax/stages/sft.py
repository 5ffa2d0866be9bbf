"""Supervised learning of both tasks: answers and captions of images, and images of captions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.checks.config_block import (
    Count,
    Interval,
    PositiveInt,
    Share,
    Weight,
    config_block,
)
from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind, partition
from corl_jax.core.types import Params, Prompts
from corl_jax.data.sources.addresses import SHAPES
from corl_jax.data.sources.base import RecordSource
from corl_jax.data.unusable_records import Check
from corl_jax.engine.hooks import Hook
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state
from corl_jax.objectives.next_token import next_token_loss
from corl_jax.objectives.token_weights import token_weights
from corl_jax.sampling.log_probs import LogProbOptions, completion_states
from corl_jax.stages.config import HooksConfig, check_one_update, read_block
from corl_jax.stages.setup import Setup
from corl_jax.stages.train_records import TrainRecords
from corl_jax.tasks.supervised import MakeSftBatch, SftBatch


@config_block
class SftConfig:
    """``config.sft``: rows, shares and widths as in ``tasks.supervised.MakeSftBatch``.

    Attributes:
      understanding_rows: rows of a batch that are questions about images; 0 for none.
      generation_rows: rows of a batch that are captions to draw; -1 is all of them.
      document_rows: rows of a batch of which documents are written: the scene in words, and questions
        with their answers (``data.shapes.documents``). The embedded world alone has them.
      caption_share: share of the understanding rows that ask for a caption.
      malformed_share: share of the answers that are in a wrong form on purpose.
      cfg_dropout: share of the captions that are dropped, for classifier-free guidance.
      generation_prompt_length: width in tokens of captions to draw.
      understanding_prompt_length: width in tokens of questions.
      target_length: width in tokens of answers.
      document_length: width in tokens of documents.
      image_weight: weight of the loss of image tokens; 1 for text.
      document_weight: weight of the loss of documents.
    """

    understanding_rows: Count = 18
    generation_rows: Annotated[int, Interval(ge=-1), "-1 is all rows of a batch"] = -1
    document_rows: Count = 0
    caption_share: Share = 0.25
    malformed_share: Share = 0.35
    cfg_dropout: Share = 0.1
    generation_prompt_length: PositiveInt = 20
    understanding_prompt_length: PositiveInt = 64
    target_length: PositiveInt = 16
    document_length: PositiveInt = 128
    image_weight: Weight = 1.0
    document_weight: Weight = 1.0


class SftStage:
    """Trains what ``config.trainable`` names; the image tokenizer stays as it is."""

    name = "sft"
    label = "supervised learning"

    def __init__(self, config: Mapping[str, Any], setup: Setup, optimizer: Optimizer):
        self.setup, self.optimizer, self.seed = setup, optimizer, config["seed"]
        self.batch_size = config["batch_size"]
        self.trainable = setup.trainable_patterns(config["trainable"])
        check_one_update(config)
        setup.check_sources(trainable=self.trainable)

        self.cfg = c = read_block(SftConfig, config["sft"], "sft")
        row_counts = {
            "config.sft.understanding_rows": c.understanding_rows,
            "config.sft.generation_rows": c.generation_rows,
            "config.sft.document_rows": c.document_rows,
        }
        for key, count in row_counts.items():
            if count > self.batch_size:
                raise UserError(
                    f"{key} must be at most batch_size={self.batch_size}; got {count}. Lower it"
                )
        setup.check_length(
            {
                "config.sft.understanding_prompt_length": c.understanding_prompt_length,
                "config.sft.target_length": c.target_length,
            }
        )
        setup.check_length(
            {
                "config.sft.generation_prompt_length": c.generation_prompt_length,
                "an image": setup.cfg.image_tokens,
            }
        )
        setup.check_length({"config.sft.document_length": c.document_length})
        self.rows_per_step = {"config.batch_size": self.batch_size} | {
            key: count for key, count in row_counts.items() if count > 0
        }
        rows = {"image": self.batch_size, "text": c.understanding_rows}
        self.records_order = TrainRecords(config, rows, is_paired=True)
        self.make_sft_batch = MakeSftBatch(
            tokenizer=setup.tokenizer,
            image_tokens=setup.cfg.image_tokens,
            image_size=setup.cfg.image_size,
            understanding_rows=c.understanding_rows,
            seed=self.seed,
            caption_share=c.caption_share,
            malformed_share=c.malformed_share,
            cfg_dropout=c.cfg_dropout,
            generation_prompt_length=c.generation_prompt_length,
            understanding_prompt_length=c.understanding_prompt_length,
            target_length=c.target_length,
            generation_rows=c.generation_rows,
            document_rows=c.document_rows,
            document_length=c.document_length,
            parse_images=self.records_order.addresses == {SHAPES},
            local_row_ids=setup.sharder.local_row_ids,
        )

    @functools.cached_property
    def train_records(self) -> RecordSource:
        """The training records, built or opened and checked on first use."""
        checks = self.text_checks()
        return self.records_order.open({"image": checks, "text": checks})

    def text_checks(self) -> list[Check]:
        """What must be true of the texts of every training record."""
        return self.make_sft_batch.checks

    def input_checks(self) -> Iterator[Callable[[], object]]:
        """Reads records before anything is written."""
        yield lambda: len(self.train_records)

    def init_state(self) -> TrainState:
        """The image tokenizer of ``init_from`` and, usually, random parameters beside it."""
        return create_state(*partition(self.setup.load_params(), self.trainable), self.optimizer)

    def data_iterator(self) -> grain.DatasetIterator:
        """Prompts with their targets."""
        return self.records_order.batches(self.train_records, self.make_sft_batch)

    def record_ids(self, step: int) -> tuple[str, ...]:
        """Ids of the records of a step."""
        return self.records_order.record_ids(self.train_records, step)

    def batches(
        self, state: TrainState, raw: SftBatch, step: int
    ) -> Iterator[tuple[Any, HostMetrics]]:
        """The batch with a weight for every target token, now that all lengths are known."""
        batch, weights = self.setup.sharder.put_batch(raw), {}
        if batch.understanding is not None:
            weights["text"] = token_weights(batch.understanding.mask, aggregation="token_mean")
        if raw.generation is not None:
            weights["image"] = self._image_weights(len(raw.generation.images))
        if batch.documents is not None:
            weights["documents"] = token_weights(
                batch.documents.is_answer,
                aggregation="token_mean",
                task_weight=self.cfg.document_weight,
            )
        yield {"sft_batch": batch, "weights": weights}, {}

    def _image_weights(self, local_rows: int) -> Any:
        """One weight for each token of an image, on the mesh."""
        rows = self.batch_size if self.cfg.generation_rows < 0 else self.cfg.generation_rows
        image_tokens = self.setup.cfg.image_tokens
        weight = self.cfg.image_weight / (rows * image_tokens)
        weights = np.full((local_rows, image_tokens), weight, np.float32)
        return self.setup.sharder.put_batch(weights)

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Cross entropy of both heads."""
        model = bind(self.setup.trained_policy.graphdef, params)
        sft_batch: SftBatch = batch["sft_batch"]
        weights, losses, metrics = batch["weights"], [], Metrics()

        # Text: answers and captions behind images.
        if (questions := sft_batch.understanding) is not None:
            loss, log_probs = self._text_loss(
                model, questions.prompts, questions.tokens, weights["text"]
            )
            losses.append(loss)
            metrics |= {"text/nll": Weighted.of(-log_probs, questions.mask[:, None])}

        # Images: the tokens of real images behind captions.
        if (captions := sft_batch.generation) is not None:
            tokens = jax.lax.stop_gradient(model.image_tokenizer.encode(captions.images))
            loss, log_probs = self._image_loss(model, captions.prompts, tokens, weights["image"])
            losses.append(loss)
            metrics |= {"image/nll": Weighted.of(-log_probs)}

        # Documents: answers behind a scene in words.
        if (documents := sft_batch.documents) is not None:
            loss, log_probs = self._text_loss(
                model, documents.prompts, documents.tokens, weights["documents"]
            )
            losses.append(loss)
            metrics |= {"documents/nll": Weighted.of(-log_probs, documents.is_answer[:, None])}
        return sum(losses, jnp.zeros(())), metrics

    def _text_loss(
        self, model: Any, prompts: Prompts, tokens: Any, weights: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The weighted loss of the tokens of a text ``[U, T]``, and their log-probs ``[U, 1, T]``."""
        targets, ids = tokens[:, None], self.setup.trained_policy.ids
        states = completion_states(model, prompts, targets, ids, "text", LogProbOptions())
        return next_token_loss(model.text_logits(states), targets, weights[:, None])

    def _image_loss(
        self, model: Any, prompts: Prompts, tokens: Any, weights: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The same for image tokens ``[B, S]``."""
        targets, ids = tokens[:, None], self.setup.trained_policy.ids
        states = completion_states(model, prompts, targets, ids, "image", LogProbOptions())
        return next_token_loss(model.image_logits(states), targets, weights[:, None])

    def update_algo_state(self, algo: Any, metrics: Metrics) -> Any:
        """There is none."""
        return algo

    def hooks(self, hooks: HooksConfig) -> list[Hook]:
        """None; ``corl evaluate`` measures the base."""
        return []
