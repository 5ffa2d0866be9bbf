"""Speed of the input: pictures per second of one core, and how long a training step waits for them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np

from corl_jax.bench.timing import LogLine, StepContender, time_step
from corl_jax.bench.train_step import JaxStep
from corl_jax.bench.workloads import (
    Workload,
    get_model_config,
    make_image_prompts,
    make_question_prompts,
    make_random_policy,
)
from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.images import pad_to_square, to_float
from corl_jax.data.pipeline import batches
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.sources.base import DescribedSource
from corl_jax.data.worker_images import resize_images, with_workers

CORE_SECONDS = 3.0
"""Seconds of one core that the first measurement takes."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What ``corl bench data`` runs.

    Attributes:
      source: address of the records; all must have a picture.
      image_size: side of the squares, in pixels.
      batch_size: pictures of a step.
      workers: processes that decode and resize, as ``config.data.workers``.
      size: of the model whose steps wait for them, a name in ``workloads.SIZES``.
      steps: that are timed.
    """

    source: str
    image_size: int
    batch_size: int
    workers: int
    size: str
    steps: int


@dataclasses.dataclass(frozen=True)
class StackSquares:
    """The pictures of a batch as the vision tower reads them, float32 ``[B, S, S, 3]``."""

    image_size: int

    def __call__(self, records: Sequence[Record], step: int) -> np.ndarray:
        return to_float(resize_images(list(records), pad_to_square, self.image_size))


def run_benchmark(options: DataOptions, log: LogLine) -> dict[str, Any]:
    """Prints both measurements.

    Returns:
      the values for JSON.

    Raises:
      UserError: an option out of range, or records that have no pictures.
    """
    source = open_source(options.source, "train")
    rate = pictures_per_core_second(source, options.image_size)
    print(f"{rate:.0f} pictures/s on one core, decoded and resized to {options.image_size} px")

    iterator = batches(
        with_workers(source, options.workers),
        seed=0,
        batch_size=options.batch_size,
        transform=StackSquares(options.image_size),
    )
    waiting, total = time_steps(iterator, options, log)
    share = sum(waiting) / sum(total)
    print(
        f"{share:.2%} of a step spent waiting: {np.mean(waiting) * 1e3:.1f} ms of "
        f"{np.mean(total):.3f} s ({options.size} model, {options.batch_size} pictures per step, "
        f"{options.workers} workers, {options.steps} steps)"
    )
    return {
        **dataclasses.asdict(options),
        "against": "nothing",
        "pictures_per_core_second": rate,
        "waiting_seconds": waiting,
        "step_seconds": total,
        "waiting_share": share,
    }


def pictures_per_core_second(source: DescribedSource, image_size: int) -> float:
    """Pictures that one core decodes and resizes in a second, read in the order of the source.

    Raises:
      UserError: a record has no picture, or it cannot be read.
    """
    count, begin = 0, time.thread_time()
    for row in itertools.cycle(range(len(source))):
        data = source.image_bytes(row)
        if data is None:
            raise UserError(
                f"every record must have a picture to be timed; record {row} has none. Choose "
                "another data set"
            )
        pad_to_square(data, image_size)
        count += 1
        seconds = time.thread_time() - begin
        if seconds > CORE_SECONDS:
            break
    return count / seconds


def time_steps(
    iterator: grain.DatasetIterator, options: DataOptions, log: LogLine
) -> tuple[list[float], list[float]]:
    """Seconds that each step waited for its batch, and that it took as a whole."""
    step = make_step(options.size)

    # The first step compiles and starts the workers.
    jax.block_until_ready(jax.device_put(next(iterator)))
    log(f"first step, compilation included: {time_step(step, 0)['total']:.1f} s")

    waiting, total = [], []
    for number in range(options.steps):
        begin = time.perf_counter()
        batch = next(iterator)
        waiting.append(time.perf_counter() - begin)
        jax.block_until_ready(jax.device_put(batch))
        time_step(step, number + 1)
        total.append(time.perf_counter() - begin)
    return waiting, total


def make_step(size: str) -> StepContender:
    """A training step on random weights and prompts, on one device."""
    cfg, workload = get_model_config(size), Workload()
    policy = make_random_policy(cfg, "float32")
    return JaxStep(
        policy,
        make_image_prompts(policy.tokenizer, workload.prompts),
        make_question_prompts(policy.tokenizer, cfg, workload.prompts),
        policy.fns.ids,
        workload,
        jax.devices()[:1],
    )
