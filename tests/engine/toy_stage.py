"""Linear regression as a stage, or as a program: ``toy_stage.py WORKDIR STEPS SECONDS_PER_STEP``."""

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
from corl_jax.engine import loop, optim, state, workdir


@dataclasses.dataclass(frozen=True)
class MakeExample(grain.transforms.RandomMap):
    """An example as a function of its index and of the generator of its position."""

    def random_map(self, element, rng):
        x = rng.standard_normal(6).astype(np.float32)
        return {"x": x, "y": np.float32(x.sum() + 0.1 * element)}


@dataclasses.dataclass
class ToyStage:
    """A stage whose algorithm state is a number that follows the loss.

    Attributes:
      updates_per_step: updates on each raw batch.
      seconds_per_step: that a step sleeps.
      rows: of a batch.
      width: of the inputs.
      seen: (step, sum of the targets) of every step so far.
    """

    updates_per_step: int = 1
    seconds_per_step: float = 0.0
    rows: int = 8
    name: str = "toy"
    width: int = 6
    seen: list = dataclasses.field(default_factory=list)

    @property
    def optimizer(self):
        return optim.make_optimizer(
            optim.OptimConfig(0.05, 100, warmup_steps=3, schedule="cosine", weight_decay=0.01)
        )

    def init_state(self):
        trainable = {"head/kernel": jnp.full((self.width, 1), 0.1), "head/bias": jnp.zeros(1)}
        return state.create_state(
            trainable, {"scale": jnp.asarray(2.0)}, self.optimizer, {"follow": 0.0}
        )

    def data_iterator(self):
        examples = grain.MapDataset.range(64).seed(7).shuffle().repeat().random_map(MakeExample())
        return iter(examples.batch(self.rows).to_iter_dataset())

    def record_ids(self, step):
        return tuple(f"row {step}.{i}" for i in range(self.rows))

    def batches(self, state, raw, step):
        time.sleep(self.seconds_per_step)
        self.seen.append((step, float(raw["y"].sum())))
        weights = np.full(self.rows, 1 / self.rows, np.float32)
        for i in range(self.updates_per_step):
            yield (
                {"toy": {**raw, "weights": weights, "nothing": None}},
                {"rewards/first": float(raw["y"][0]), "i": i},
            )

    def loss(self, params, batch, algo):
        part = batch["toy"]
        outputs = params["scale"] * (part["x"] @ params["head/kernel"])[:, 0] + params["head/bias"]
        error = (outputs - part["y"]) ** 2
        return jnp.sum(error * part["weights"]), {"error": Weighted.of(error)}

    def update_algo_state(self, algo, metrics):
        return {"follow": 0.9 * algo["follow"] + 0.1 * metrics["error"].value}


CONFIG = {"steps": 0, "optim": {"learning_rate": 0.05}}


def start(path, steps, stage=None, hooks=(), save_every=4, **options):
    """Trains the toy stage in ``path``, step by step."""
    stage = stage or ToyStage()
    workdir.open_workdir(path, {**CONFIG, "steps": steps}).push()
    return loop.train(
        loop.TrainingRun(
            stage=stage,
            optimizer=stage.optimizer,
            cfg=loop.LoopConfig(steps=steps, save_every=save_every, quiet=True, **options),
            workdir=workdir.join_workdir(path),
            model={"width": stage.width},
            hooks=tuple(hooks),
        )
    )


def run(*args, **options):
    """``start`` to the end; the results of all steps."""
    return list(start(*args, **options))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    flags.FLAGS(["toy_stage"])
    stage = ToyStage(updates_per_step=2, seconds_per_step=float(sys.argv[3]))
    run(sys.argv[1], int(sys.argv[2]), stage)
