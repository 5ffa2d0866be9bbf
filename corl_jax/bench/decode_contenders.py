"""The two programs that ``corl bench decode`` times, and how torch is opened for every benchmark.

Both sample images from the same weights: corl_jax's rollout, and ``JanusForConditionalGeneration``
of transformers in torch, which reads them from a Hugging Face folder.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import pathlib
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from corl_jax.bench.timing import time_call
from corl_jax.bench.workloads import GUIDANCE_SCALE
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts
from corl_jax.sampling.batching import prompt_keys
from corl_jax.sampling.generate import PIXELS_AT_ONCE, decode_to_pixels
from corl_jax.sampling.policy import Policy


@dataclasses.dataclass(frozen=True)
class DecodeContender:
    """A program that samples images, loaded and compiled.

    Attributes:
      sample: samples image tokens ``[B * G, S]``.
      decode_pixels: decodes such tokens to pixels.
      seconds: for transformers to ``load`` the folder, for corl_jax to ``compile``.
      threads: number of torch's threads, or None.
    """

    sample: Callable[[], Any]
    decode_pixels: Callable[[np.ndarray], Any]
    seconds: dict[str, float]
    threads: int | None = None


def corl_jax_contender(
    policy: Policy, prompts: Prompts, group_size: int, devices: int
) -> DecodeContender:
    """The rollout of ``PolicyFns.sample_images``, its prompts spread over ``devices`` devices.

    Pixels are decoded by a program of their own, so that they can be timed by themselves. It
    compiles when it is called first.

    Args:
      policy: on one device.
      prompts: ``B`` of them.
      group_size: ``G``, samples per prompt; ``B * G`` images are sampled.
      devices: a divisor of ``B``.
    """
    sharder = Sharder(make_mesh({"data": devices}, jax.devices()[:devices]))
    replicated = sharder.named_sharding()
    params = jax.block_until_ready(jax.device_put(policy.params, replicated))

    # Compile. A program that returns tokens alone does not decode pixels.
    start = time.perf_counter()
    fns = policy.fns
    keys = prompt_keys(0, "bench", np.arange(len(prompts.tokens)), group_size)
    sampling = jax.device_put(fns.sampling_params("image", guidance=GUIDANCE_SCALE), replicated)
    args = (params, *sharder.put_batch((prompts, keys)), sampling)

    def sample_tokens(*args: Any) -> jax.Array:
        tokens = fns.sample_images(*args).tokens
        return tokens.reshape(-1, tokens.shape[-1])

    with sharding_context(sharder):
        sample = jax.jit(sample_tokens).lower(*args).compile()
    seconds = {"compile": time.perf_counter() - start}

    # As a rollout decodes them, a few images at a time.
    images_at_once = PIXELS_AT_ONCE // fns.cfg.image_size**2
    decode = jax.jit(
        lambda params, tokens: decode_to_pixels(bind(fns.graphdef, params), tokens, images_at_once)
    )

    def decode_pixels(tokens: np.ndarray) -> jax.Array:
        with sharding_context(sharder):
            return decode(params, sharder.put_batch(tokens))

    # Run once, so that later calls are warm.
    time_call(lambda: sample(*args))
    return DecodeContender(lambda: sample(*args), decode_pixels, seconds)


def transformers_contender(
    folder: pathlib.Path, prompts: Prompts, group_size: int
) -> DecodeContender:
    """``JanusForConditionalGeneration.generate`` with a KV cache, on its best number of threads.

    Args:
      folder: Hugging Face folder of the policy.
      prompts, group_size: as ``corl_jax_contender`` has them; every sample is a row.

    Raises:
      UserError: torch is not installed, or does not find the device that JAX runs on.
    """
    # Load.
    start = time.perf_counter()
    torch, model, device = load_torch_model(folder)
    seconds = {"load": time.perf_counter() - start}

    # The prompts, and the two calls that are timed.
    tokens, mask = (
        torch.from_numpy(np.repeat(np.asarray(array, np.int64), group_size, 0)).to(device)
        for array in (prompts.tokens, prompts.mask)
    )

    def sample() -> Any:
        image_tokens = model.generate(
            tokens,
            attention_mask=mask,
            generation_mode="image",
            do_sample=True,
            top_k=0,
            guidance_scale=GUIDANCE_SCALE,
            use_cache=True,
        )
        return image_tokens.cpu()

    def decode_pixels(image_tokens: np.ndarray) -> Any:
        with torch.inference_mode():
            on_device = torch.from_numpy(image_tokens).to(device)
            return model.decode_image_tokens(on_device).float().cpu()

    def seconds_on(threads: int) -> float:
        torch.set_num_threads(threads)
        return time_call(sample)[0]

    # The first call is slower than the others, so it does not count here.
    sample()
    # One thread or all of them, whichever is faster.
    threads = min({1, os.cpu_count() or 1}, key=seconds_on)
    torch.set_num_threads(threads)

    # Decoding pixels is warm after one call too.
    length = model.model.vision_model.config.num_image_tokens
    decode_pixels(np.zeros((len(tokens), length), np.int64))
    return DecodeContender(sample, decode_pixels, seconds, threads)


def check_torch() -> None:
    """Raises UserError unless torch is installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "transformers runs on torch, which is not installed; pip install -e '.[test]' "
            "(Python 3.11)"
        )


def load_torch_model(folder: pathlib.Path) -> tuple[ModuleType, Any, str]:
    """Loads transformers' Janus on the device that JAX runs on.

    Returns:
      the module ``torch``, the ``JanusForConditionalGeneration`` and its device.

    Raises:
      UserError: torch is not installed, or does not find the device that JAX runs on.
    """
    check_torch()
    import torch
    import transformers

    # Both compute where JAX does, and in the dtype that corl_jax chooses there.
    device, dtype = "cpu", torch.float32
    if jax.default_backend() != "cpu":
        device, dtype = "cuda", torch.bfloat16
        if not torch.cuda.is_available():
            raise UserError(
                f"torch must find a CUDA device, since JAX runs on {jax.default_backend()}; it "
                "finds none. Install torch with CUDA, or set JAX_PLATFORMS=cpu"
            )

    # Warnings would end up between the lines of progress.
    transformers.logging.set_verbosity_error()
    model: Any = transformers.JanusForConditionalGeneration.from_pretrained(folder, dtype=dtype)

    # In some releases (5.17) ``generate`` of Janus leaves out an argument of this method.
    prepare_cache = model._prepare_static_cache
    if "prefill_chunk_size" in inspect.signature(prepare_cache).parameters:
        model._prepare_static_cache = functools.partial(prepare_cache, prefill_chunk_size=None)
    return torch, model.eval().to(device), device
