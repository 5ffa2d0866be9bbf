"""Linear regression as a Stage, or as a program: ``python toy_stage.py WORKDIR STEPS SECONDS_PER_STEP``."""

from __future__ import annotations

import dataclasses
import sys
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from corl_jax.core.numerics import Weighted
from corl_jax.engine import loop, optim, state, update, workdir


@dataclasses.dataclass(frozen=True)
class Draw(grain.transforms.RandomMap):
    """A sample as a function of its index and the position's generator."""

    def random_map(self, element, rng):
        x = rng.standard_normal(6).astype(np.float32)
        return {"x": x, "y": np.float32(x.sum() + 0.1 * element)}


@dataclasses.dataclass
class ToyStage:
    """``inner`` updates per raw batch; ``algo`` is a number that follows the loss."""

    inner: int = 1
    pause: float = 0.0
    rows: int = 8
    name: str = "toy"
    width: int = 6
    seen: list = dataclasses.field(default_factory=list)

    @property
    def optimizer(self):
        return optim.make_optimizer(
            optim.OptimConfig(0.05, 100, warmup_steps=3, schedule="cosine", weight_decay=0.01)
        )

    def init(self):
        trainable = {"head/kernel": jnp.full((self.width, 1), 0.1), "head/bias": jnp.zeros(1)}
        return state.create_state(
            trainable, {"scale": jnp.asarray(2.0)}, self.optimizer, {"follow": 0.0}
        )

    def data(self):
        base = (
            grain.MapDataset.range(64)
            .seed(7)
            .shuffle()
            .repeat()
            .random_map(Draw())
            .batch(self.rows)
        )
        return iter(base.to_iter_dataset())

    def batches(self, state, raw, step):
        time.sleep(self.pause)
        self.seen.append((step, float(raw["y"].sum())))
        weights = np.full(self.rows, 1 / self.rows, np.float32)
        for i in range(self.inner):
            yield (
                {"toy": {**raw, "weights": weights, "nothing": None}},
                {"rewards/first": float(raw["y"][0]), "i": i},
            )

    def loss(self, params, batch, algo):
        part = batch["toy"]
        out = params["scale"] * (part["x"] @ params["head/kernel"])[:, 0] + params["head/bias"]
        error = (out - part["y"]) ** 2
        return jnp.sum(error * part["weights"]), {"error": Weighted.of(error)}

    def after(self, algo, metrics):
        return {"follow": 0.9 * algo["follow"] + 0.1 * metrics["error"].value}


CONFIG = {"steps": 0, "optim": {"learning_rate": 0.05}}


def start(path, steps, stage=None, hooks=(), save_every=4, **options):
    """Trains the toy in ``path``, step by step."""
    stage = stage or ToyStage()
    workdir.open_workdir(path, {**CONFIG, "steps": steps}).publish()
    cfg = loop.LoopConfig(
        steps=steps, save_every=save_every, quiet=True, tensorboard_every=0, **options
    )
    step = update.make_update(stage.loss, stage.after, stage.optimizer)
    return loop.train(stage, step, cfg, workdir.joined_workdir(path), {"width": stage.width}, hooks)


def run(*args, **options):
    """As ``start``, to the end; returns the StepResults."""
    return list(start(*args, **options))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.FLAGS(["toy_stage"])
    run(sys.argv[1], int(sys.argv[2]), ToyStage(inner=2, pause=float(sys.argv[3])))
