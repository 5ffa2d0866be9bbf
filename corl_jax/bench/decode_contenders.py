"""The two programs that ``bench_decode`` times: our rollout, and transformers' own Janus in torch.

In: a Hugging Face folder and prompts. Out: a ``Side``, warm. Also what every benchmark beside torch starts with.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.policy import Policy

GUIDANCE = 5.0


@dataclasses.dataclass(frozen=True)
class Side:
    """One program, loaded and compiled.

    Attributes:
      draw: samples image tokens ``[B, S]``, one picture per prompt.
      show: pixels of such tokens.
      seconds: to ``load`` the folder and, of ours, to ``compile``.
      threads: of torch, or None.
    """

    draw: Callable[[], Any]
    show: Callable[[Any], Any]
    seconds: dict[str, float]
    threads: int | None = None


def timed(call: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """Seconds that ``call`` took, and what it gave, on the host."""
    start = time.perf_counter()
    out = np.asarray(call())
    return time.perf_counter() - start, out


def ours(folder: pathlib.Path, prompts: Prompts, devices: int) -> Side:
    """The rollout of ``PolicyFns.sample_images`` but for its pixels, which are timed alone; rows lie over ``devices``."""
    start = time.perf_counter()
    sharder = Sharder(make_mesh({"data": devices}, jax.devices()[:devices]))
    policy = Policy.load(folder)
    params = jax.block_until_ready(jax.device_put(policy.params, sharder.named_sharding()))
    loaded = time.perf_counter()
    sampler, keys = policy.sampler, prompt_keys(0, "bench", np.arange(len(prompts.tokens)), 1)
    guided = jax.device_put(sampler.sampling("image", guidance=GUIDANCE), sharder.named_sharding())
    args = (params, *sharder.put_batch((prompts, keys)), guided)
    with sharding_context(sharder):
        draw = (
            jax.jit(lambda *given: sampler.sample_images(*given).tokens[:, 0])
            .lower(*args)
            .compile()
        )
    seconds = {"load": loaded - start, "compile": time.perf_counter() - loaded}
    show = jax.jit(
        lambda params, codes: bind(sampler.graphdef, params).image_tokenizer.decode(codes)
    )
    side = Side(lambda: draw(*args), lambda codes: show(params, sharder.put_batch(codes)), seconds)
    side.show(timed(side.draw)[1])
    return side


def profiled(call: Callable[[], Any], folder: pathlib.Path | None) -> None:
    """Runs ``call`` once more and writes JAX's trace of it into ``folder``; does nothing without one."""
    if folder is not None:
        with jax.profiler.trace(str(folder)):
            call()


def check_torch() -> None:
    """Refuses to go on without torch.

    Raises:
      UserError: it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "transformers runs on torch, which is not installed; pip install -e '.[test]' (Python 3.11)"
        )


def torch_model(folder: pathlib.Path) -> tuple[Any, Any, str]:
    """Torch, ``JanusForConditionalGeneration`` from ``folder`` where JAX runs too, and that device.

    Raises:
      UserError: torch is not installed, or does not see the device that JAX runs on.
    """
    check_torch()
    import torch
    import transformers

    device, dtype = "cpu", torch.float32
    if jax.default_backend() != "cpu":
        device, dtype = "cuda", torch.bfloat16
        if not torch.cuda.is_available():
            raise UserError(
                f"JAX runs on {jax.default_backend()}, torch finds no CUDA device; set JAX_PLATFORMS=cpu"
            )
    transformers.logging.set_verbosity_error()
    model: Any = transformers.JanusForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return torch, model.eval().to(device), device


def theirs(folder: pathlib.Path, prompts: Prompts) -> Side:
    """``JanusForConditionalGeneration.generate`` with its own cache, on the number of threads that suits it best.

    Raises:
      UserError: torch is not installed, or does not see the device that JAX runs on.
    """
    start = time.perf_counter()
    torch, model, device = torch_model(folder)
    seconds = {"load": time.perf_counter() - start}
    tokens, mask = (
        torch.from_numpy(np.asarray(a, np.int64)).to(device) for a in (prompts.tokens, prompts.mask)
    )

    def draw() -> Any:
        how = {"do_sample": True, "top_k": 0, "guidance_scale": GUIDANCE, "use_cache": True}
        return model.generate(tokens, attention_mask=mask, generation_mode="image", **how).cpu()

    def show(codes: np.ndarray) -> Any:
        with torch.inference_mode():
            return model.decode_image_tokens(torch.from_numpy(codes).to(device)).float().cpu()

    def seconds_on(threads: int) -> float:
        torch.set_num_threads(threads)
        return timed(draw)[0]

    draw()  # warm
    threads = min({1, os.cpu_count() or 1}, key=seconds_on)
    torch.set_num_threads(threads)
    show(
        np.zeros((len(prompts.tokens), model.model.vision_model.config.num_image_tokens), np.int64)
    )
    return Side(draw, show, seconds, threads)
