"""The image tokenizer: pictures in, reconstruction and a codebook that stays in use out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.sharding import to_host
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.data.images import to_uint8
from corl_jax.data.pipeline import batches, held_out_records
from corl_jax.data.transforms import StackPictures
from corl_jax.engine.hooks import Every, Hook, Report
from corl_jax.engine.image_grid import image_grid
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.stage import HostMetrics
from corl_jax.engine.state import TrainState, create_state
from corl_jax.models.janus.codebook import unit
from corl_jax.models.janus.image_tokenizer import ImageTokenizer
from corl_jax.objectives import reconstruction
from corl_jax.stages.config import HookSettings, block, no_adapters, one_update
from corl_jax.stages.setup import Setup, open_records

PART = "image_tokenizer/"


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """Weights of the loss: squared and absolute pixel error, codebook, commitment, code usage (and its softness)."""

    squared: float
    absolute: float
    codebook: float
    commitment: float
    usage: float
    usage_temperature: float


class TokenizerStage:
    """Trains ``image_tokenizer/**`` alone; its checkpoints hold nothing else."""

    name = "tokenizer"

    def __init__(self, config: Mapping[str, Any], parts: Setup, optimizer: Optimizer):
        self.parts, self.optimizer, self.seed = parts, optimizer, config["seed"]
        self.batch_size = config["batch_size"]
        self.rows = {"pictures": self.batch_size}
        one_update(config)
        no_adapters(config)
        parts.check(PART + "*")
        sizes = parts.cfg.image_tokenizer
        self.graphdef = nnx.split(nnx.eval_shape(lambda: ImageTokenizer(sizes, rngs=nnx.Rngs(0))))[
            0
        ]
        self.settings = block(TokenizerSettings, config["tokenizer"], "tokenizer")
        self.train = open_records(config, "train")
        self.held_out = held_out_records(open_records(config, "test"), 64)

    def open(self) -> None:
        """Nothing beside what ``__init__`` opened."""

    def init(self) -> TrainState:
        """Fresh or handed-off parameters."""
        return create_state(self.parts.params(PART + "*"), {}, self.optimizer)

    def data(self) -> grain.DatasetIterator:
        """Pictures."""
        size = self.parts.cfg.vision.image_size
        pictures = StackPictures(size, self.parts.sharder.local_row_ids)
        return batches(self.train, seed=self.seed, batch_size=self.batch_size, transform=pictures)

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """The pictures themselves."""
        rows = np.full(len(raw), 1 / self.batch_size, np.float32)
        yield self.parts.sharder.put_batch({"images": raw, "weights": rows}), {}

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Weighted sum of the terms of ``TokenizerSettings``."""
        s, images, weights = self.settings, batch["images"], batch["weights"]
        model = self._model(params)
        latents = unit(model.latents(images))
        similarity = model.quantize.similarity(latents)
        codes = jnp.argmax(similarity, -1)
        chosen = model.quantize.lookup(codes)
        pictures = model.decode_latents(reconstruction.straight_through(latents, chosen))
        squared, absolute = reconstruction.pixel_terms(pictures, images)
        codebook, commitment = (
            t.mean((1, 2)) for t in reconstruction.codebook_terms(latents, chosen)
        )
        single, mean = reconstruction.usage_terms(similarity, s.usage_temperature)
        rows = (
            s.squared * squared
            + s.absolute * absolute
            + s.codebook * codebook
            + s.commitment * commitment
        )
        used = jnp.zeros(similarity.shape[-1]).at[codes.reshape(-1)].set(1.0)
        metrics = {
            "psnr": Weighted.of(reconstruction.psnr(squared)),
            "commitment": Weighted.of(commitment),
            "codes_used": Weighted.of(jnp.sum(used)),
            "code_entropy": Weighted.of(mean),
        }
        return jnp.sum(rows * weights) + s.usage * (single - mean) * jnp.sum(weights), metrics

    def after(self, algo: Any, metrics: Metrics) -> Any:
        """Nothing to remember."""
        return algo

    def _model(self, params: Params) -> ImageTokenizer:
        return bind(self.graphdef, {path.removeprefix(PART): leaf for path, leaf in params.items()})

    def hooks(self, settings: HookSettings) -> list[Hook]:
        """Held-out PSNR and a sheet of originals above their reconstructions."""
        pictures = StackPictures(self.parts.cfg.vision.image_size)(self.held_out, 0)

        @jax.jit
        def reconstruct(params: Params, x: jax.Array) -> jax.Array:
            model = self._model(params)
            return model.decode(model.encode(x))

        def report(done: int, state: TrainState) -> Report:
            out = to_host(reconstruct(state.params, pictures))
            error = np.mean(np.square(out - pictures), (1, 2, 3))
            sheet = to_uint8(np.concatenate([pictures[:8], out[:8]]))
            labels = ["original"] * 8 + ["decoded"] * 8
            psnr = float(np.mean(np.asarray(reconstruction.psnr(jnp.asarray(error)))))
            return Report(
                {"eval/psnr": psnr}, {"reconstruction": image_grid(sheet, labels, 8, scale=2)}
            )

        return [Every(settings.sample_every, report)]
