"""Speed of image decoding, ours beside transformers': same random weights, prompts, machine and process.

In: sizes. Out: a ``Speed``. The sides take turns, so each is idle while the other runs.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

from corl_jax.bench.decode_contenders import check_torch, ours, profiled, theirs, timed
from corl_jax.bench.timing import REST
from corl_jax.bench.workloads import random_folder, sample_prompts
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig

PROMPTS = 8


@dataclasses.dataclass(frozen=True)
class Speed:
    """Image tokens per second (medians), and by side the seconds to load, compile and decode the pixels."""

    ours: float
    theirs: float
    seconds: dict[str, dict[str, float]]
    threads: int | None

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return self.ours / self.theirs


def measure(
    cfg: JanusConfig,
    repeats: int,
    devices: int = 1,
    log: Callable[[str], None] = lambda line: None,
    profile: pathlib.Path | None = None,
) -> Speed:
    """Times both sides in turns, ``repeats`` times each; ``log`` takes lines of progress.

    Args:
      devices: that share our side, as ``mesh.data`` in training; a divisor of ``PROMPTS``. On a CPU they are threads.
      profile: where to write a JAX trace of one more draw of ours, or None.

    Raises:
      UserError: torch is not installed, or does not see the device that JAX runs on.
    """
    check_torch()
    with tempfile.TemporaryDirectory() as where:
        folder = random_folder(cfg, pathlib.Path(where))
        prompts = sample_prompts(TextTokenizer.load(folder), PROMPTS)
        log("random weights are written; loading ours, compiling")
        sides = {"ours": ours(folder, prompts, devices)}
        log("loading theirs, finding its best number of threads")
        sides["theirs"] = theirs(folder, prompts)
    drawn: dict[str, list[float]] = {name: [] for name in sides}
    shown: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            time.sleep(REST)
            seconds, codes = timed(side.draw)
            drawn[name].append(seconds)
            shown[name].append(timed(functools.partial(side.show, codes))[0])
            log(f"turn {turn + 1} of {repeats}, {name}: {codes.size / seconds:.1f} image tokens/s")
    profiled(lambda: timed(sides["ours"].draw), profile)
    rate = {name: PROMPTS * cfg.image_tokens / statistics.median(drawn[name]) for name in sides}
    seconds_by_side = {
        name: side.seconds | {"pixels": statistics.median(shown[name])}
        for name, side in sides.items()
    }
    return Speed(rate["ours"], rate["theirs"], seconds_by_side, sides["theirs"].threads)
