"""Supervised learning of both tasks: answers and captions of images, and images of captions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np

from corl_jax.core.checks.config_block import PositiveInt, Share, Weight, config_block
from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind, partition
from corl_jax.core.types import Params
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
      understanding_rows: rows of a batch that are questions about images; all rows are captions to
        draw.
      caption_share: share of the understanding rows that ask for a caption.
      malformed_share: share of the answers that are in a wrong form on purpose.
      cfg_dropout: share of the captions that are dropped, for classifier-free guidance.
      generation_prompt_length: width in tokens of captions to draw.
      understanding_prompt_length: width in tokens of questions.
      target_length: width in tokens of answers.
      image_weight: weight of the loss of image tokens; 1 for text.
    """

    understanding_rows: PositiveInt = 18
    caption_share: Share = 0.25
    malformed_share: Share = 0.35
    cfg_dropout: Share = 0.1
    generation_prompt_length: PositiveInt = 20
    understanding_prompt_length: PositiveInt = 64
    target_length: PositiveInt = 16
    image_weight: Weight = 1.0


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
        if c.understanding_rows > self.batch_size:
            raise UserError(
                "config.sft.understanding_rows must be at most batch_size="
                f"{self.batch_size}; got {c.understanding_rows}. Lower it"
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
        self.rows_per_step = {
            "config.batch_size": self.batch_size,
            "config.sft.understanding_rows": c.understanding_rows,
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
        sharder, image_tokens = self.setup.sharder, self.setup.cfg.image_tokens
        sft_batch = sharder.put_batch(raw)
        text_weights = token_weights(sft_batch.target_mask, aggregation="token_mean")
        image_weight = self.cfg.image_weight / (self.batch_size * image_tokens)
        image_weights = sharder.put_batch(
            np.full((len(raw.target_images), image_tokens), image_weight, np.float32)
        )
        yield (
            {
                "sft_batch": sft_batch,
                "text_weights": text_weights,
                "image_weights": image_weights,
            },
            {},
        )

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Cross entropy of both heads."""
        policy = self.setup.trained_policy
        model, options = bind(policy.graphdef, params), LogProbOptions()
        sft_batch = batch["sft_batch"]

        # Text: answers and captions behind images.
        targets = sft_batch.target_tokens[:, None]
        states = completion_states(
            model, sft_batch.understanding_prompts, targets, policy.ids, "text", options
        )
        text_loss, text_log_probs = next_token_loss(
            model.text_logits(states), targets, batch["text_weights"][:, None]
        )

        # Images: the tokens of real images behind captions.
        image_tokens = jax.lax.stop_gradient(model.image_tokenizer.encode(sft_batch.target_images))
        targets = image_tokens[:, None]
        states = completion_states(
            model, sft_batch.generation_prompts, targets, policy.ids, "image", options
        )
        image_loss, image_log_probs = next_token_loss(
            model.image_logits(states), targets, batch["image_weights"][:, None]
        )

        metrics = {
            "text/nll": Weighted.of(-text_log_probs, sft_batch.target_mask[:, None]),
            "image/nll": Weighted.of(-image_log_probs),
        }
        return text_loss + image_loss, metrics

    def update_algo_state(self, algo: Any, metrics: Metrics) -> Any:
        """There is none."""
        return algo

    def hooks(self, hooks: HooksConfig) -> list[Hook]:
        """None; ``corl evaluate`` measures the base."""
        return []
