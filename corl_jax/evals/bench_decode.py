"""Speed of image decoding, ours beside transformers': same random weights, prompts, machine and process.

In: sizes. Out: a ``Speed``. The sides take turns, so each is idle while the other runs.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
from collections.abc import Callable

import jax
import numpy as np

from corl_jax.core.trees import flatten
from corl_jax.core.types import Prompts
from corl_jax.data.shapes.vocabulary import WORDS, write_tokenizer
from corl_jax.data.text import TextTokenizer
from corl_jax.evals.bench_sides import check_torch, ours, theirs, timed
from corl_jax.models.config import (
    JANUS_PRO_1B,
    TINY,
    DecoderConfig,
    ImageTokenizerConfig,
    JanusConfig,
    VisionConfig,
)
from corl_jax.models.unified import initialise
from corl_jax.porting.save import save_folder

MID = JanusConfig(
    vision=VisionConfig(width=64, depth=1, heads=2, mlp_dim=128),
    decoder=DecoderConfig(
        vocab_size=72, width=512, depth=8, heads=8, kv_heads=8, head_size=64, mlp_dim=1408, max_length=1024
    ),
    image_tokenizer=ImageTokenizerConfig(
        latent_channels=32, base_channels=32, channel_multipliers=(1, 1, 1, 1, 1), res_blocks=0
    ),
    gen_head_dim=512,
)
"""A trunk of middle size; as many image tokens (576) and codes (16384) as Janus-Pro."""

SIZES = {"tiny": (TINY, 5), "mid": (MID, 2), "janus_pro_1b": (JANUS_PRO_1B, 2)}
"""Sizes and how often each side is timed."""

PROMPTS, PROMPT_TOKENS = 8, 20


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


def measure(cfg: JanusConfig, repeats: int, log: Callable[[str], None] = lambda line: None) -> Speed:
    """Times both sides in turns, ``repeats`` times each; ``log`` takes lines of progress.

    Raises:
      UserError: torch is not installed, or does not see the device that JAX runs on.
    """
    check_torch()
    with tempfile.TemporaryDirectory() as where:
        folder = random_folder(cfg, pathlib.Path(where))
        prompts = sample_prompts(TextTokenizer.load(folder))
        log("random weights are written; loading ours, compiling")
        sides = {"ours": ours(folder, prompts)}
        log("loading theirs, finding its best number of threads")
        sides["theirs"] = theirs(folder, prompts)
    drawn: dict[str, list[float]] = {name: [] for name in sides}
    shown: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            seconds, codes = timed(side.draw)
            drawn[name].append(seconds)
            shown[name].append(timed(functools.partial(side.show, codes))[0])
            log(f"turn {turn + 1} of {repeats}, {name}: {codes.size / seconds:.1f} image tokens/s")
    rate = {name: PROMPTS * cfg.image_tokens / statistics.median(drawn[name]) for name in sides}
    seconds_by_side = {name: side.seconds | {"pixels": statistics.median(shown[name])} for name, side in sides.items()}
    return Speed(rate["ours"], rate["theirs"], seconds_by_side, sides["theirs"].threads)


def random_folder(cfg: JanusConfig, where: pathlib.Path) -> pathlib.Path:
    """A Hugging Face folder in ``where`` with freshly initialised weights and the embedded world's tokenizer."""
    params = jax.jit(lambda key: flatten(initialise(cfg, key))[1])(jax.random.key(0))
    save_folder(params, cfg, write_tokenizer(where / "words"), where / "policy")
    return where / "policy"


def sample_prompts(tokenizer: TextTokenizer) -> Prompts:
    """``PROMPTS`` different prompts of ``PROMPT_TOKENS`` tokens, without padding."""
    words, inner = tokenizer.encode(" ".join(WORDS)), PROMPT_TOKENS - 2
    rows = [[tokenizer.bos_id, *words[i : i + inner], tokenizer.boi_id] for i in range(PROMPTS)]
    return Prompts(np.array(rows, np.int32), np.ones((PROMPTS, PROMPT_TOKENS), bool))
