"""Training of the image tokenizer: reconstruction, and a codebook whose codes stay in use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from corl_jax.core.checks.config_block import Interval, Weight, config_block
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.sharding import to_host
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, Record
from corl_jax.data.images import to_uint8
from corl_jax.data.pipeline import held_out_records
from corl_jax.data.records import require
from corl_jax.data.sources.base import RecordSource
from corl_jax.data.transforms import StackImages
from corl_jax.data.unusable_records import Check
from corl_jax.engine.hooks import Hook, PeriodicHook, Report
from corl_jax.engine.image_grid import image_grid
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state
from corl_jax.models.janus.codebook import l2_normalize
from corl_jax.models.janus.image_tokenizer import PARAM_PREFIX, ImageTokenizer
from corl_jax.objectives import reconstruction
from corl_jax.stages.config import HooksConfig, check_no_adapters, check_one_update, read_block
from corl_jax.stages.setup import Setup, open_records
from corl_jax.stages.train_records import TrainRecords

HELD_OUT_IMAGES = 64
SHEET_IMAGES = 8


@config_block
class TokenizerConfig:
    """``config.tokenizer``: weights of the terms of the loss, see ``objectives.reconstruction``.

    Attributes:
      l2_weight, l1_weight: weights of the squared and of the absolute error of pixels.
      codebook_weight, commitment_weight: weights of the distance of codes to latents, and of latents
        to codes.
      usage_weight: weight of the entropy term that keeps all codes in use.
      usage_temperature: softness of the assignment of codes in that term.
    """

    l2_weight: Weight = 1.0
    l1_weight: Weight = 0.2
    codebook_weight: Weight = 1.0
    commitment_weight: Weight = 0.25
    usage_weight: Weight = 0.005
    usage_temperature: Annotated[float, Interval(gt=0)] = 0.1


class TokenizerStage:
    """Trains the image tokenizer alone; its checkpoints hold nothing else."""

    name = "tokenizer"
    label = "image tokenizer"

    def __init__(self, config: Mapping[str, Any], setup: Setup, optimizer: Optimizer):
        self.setup, self.optimizer, self.seed = setup, optimizer, config["seed"]
        self.batch_size = config["batch_size"]
        self.rows_per_step = {"config.batch_size": self.batch_size}
        check_one_update(config)
        check_no_adapters(config)
        setup.check_sources(PARAM_PREFIX + "*")

        sizes = setup.cfg.image_tokenizer
        abstract_module = nnx.eval_shape(lambda: ImageTokenizer(sizes, rngs=nnx.Rngs(0)))
        self.graphdef = nnx.split(abstract_module)[0]
        self.cfg = read_block(TokenizerConfig, config["tokenizer"], "tokenizer")
        self._open_records = functools.partial(open_records, config)
        self.records_order = TrainRecords(config, {"image": self.batch_size}, is_paired=True)

    @functools.cached_property
    def train_records(self) -> RecordSource:
        """The training records, built or opened and checked on first use."""
        return self.records_order.open({"image": self.text_checks()})

    @functools.cached_property
    def held_out(self) -> tuple[Record, ...]:
        """Records whose images are reconstructed during the run."""
        return held_out_records(self._open_records("test"), HELD_OUT_IMAGES)

    def text_checks(self) -> list[Check]:
        """What must be true of every training record: it has an image."""
        return [functools.partial(require, task="the image tokenizer", fields=("image",))]

    def input_checks(self) -> Iterator[Callable[[], object]]:
        """Reads records before anything is written, see ``RlStage.input_checks``."""
        yield lambda: len(self.train_records)
        yield lambda: len(self.held_out)

    def init_state(self) -> TrainState:
        """Random parameters, or those of ``init_from``."""
        return create_state(self.setup.load_params(PARAM_PREFIX + "*"), {}, self.optimizer)

    def data_iterator(self) -> grain.DatasetIterator:
        """Images in [-1, 1]."""
        transform = StackImages(self.setup.cfg.image_size, self.setup.sharder.local_row_ids)
        return self.records_order.batches(self.train_records, transform)

    def record_ids(self, step: int) -> tuple[str, ...]:
        """Ids of the records of a step."""
        return self.records_order.record_ids(self.train_records, step)

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """The images, with equal weights that add up to 1."""
        weights = np.full(len(raw), 1 / self.batch_size, np.float32)
        yield self.setup.sharder.put_batch({"images": raw, "weights": weights}), {}

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Weighted sum of the terms of ``TokenizerConfig``."""
        c, images, weights = self.cfg, batch["images"], batch["weights"]
        model = self._bind(params)

        # Encode, quantize to the nearest code, decode.
        latents = l2_normalize(model.latents(images))
        similarity = model.quantize.similarity(latents)
        tokens = jnp.argmax(similarity, -1)
        codes = model.quantize.lookup(tokens)
        decoded = model.decode_latents(reconstruction.straight_through(latents, codes))

        # Terms per image.
        squared, absolute = reconstruction.pixel_errors(decoded, images)
        codebook, commitment = (
            term.mean((1, 2)) for term in reconstruction.codebook_losses(latents, codes)
        )
        rows = (
            c.l2_weight * squared
            + c.l1_weight * absolute
            + c.codebook_weight * codebook
            + c.commitment_weight * commitment
        )

        # The usage term is of the whole batch.
        token_entropy, mean_entropy = reconstruction.code_entropies(similarity, c.usage_temperature)
        is_used = jnp.zeros(similarity.shape[-1]).at[tokens.reshape(-1)].set(1.0)
        metrics = {
            "psnr": Weighted.of(reconstruction.psnr(squared)),
            "commitment": Weighted.of(commitment),
            "codes_used": Weighted.of(jnp.sum(is_used)),
            "code_entropy": Weighted.of(mean_entropy),
        }
        usage = c.usage_weight * (token_entropy - mean_entropy) * jnp.sum(weights)
        return jnp.sum(rows * weights) + usage, metrics

    def update_algo_state(self, algo: Any, metrics: Metrics) -> Any:
        """There is none."""
        return algo

    def _bind(self, params: Params) -> ImageTokenizer:
        return bind(
            self.graphdef, {path.removeprefix(PARAM_PREFIX): leaf for path, leaf in params.items()}
        )

    def hooks(self, hooks: HooksConfig) -> list[Hook]:
        """Held-out PSNR, and a sheet of images above their reconstructions."""
        images = StackImages(self.setup.cfg.image_size)(self.held_out, 0)

        @jax.jit
        def reconstruct(params: Params, images: jax.Array) -> jax.Array:
            model = self._bind(params)
            return model.decode(model.encode(images))

        def report(done: int, state: TrainState) -> Report:
            decoded = to_host(reconstruct(state.params, images))
            error = np.mean(np.square(decoded - images), (1, 2, 3))
            psnr = float(np.mean(np.asarray(reconstruction.psnr(jnp.asarray(error)))))

            count = SHEET_IMAGES
            sheet = to_uint8(np.concatenate([images[:count], decoded[:count]]))
            labels = ["original"] * count + ["decoded"] * count
            grid = image_grid(sheet, labels, count, scale=2)
            return Report({"eval/psnr": psnr}, {"reconstruction": grid})

        return [PeriodicHook(hooks.sample_every, report)]
