"""Memory of a chip, from shapes and shardings alone: what a training step keeps there, by part.

Sizes are in GiB per chip, and of an abstract step (``programs.PlannedStep``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
from jaxtyping import PyTree

from corl_jax.core.trees import matches
from corl_jax.models.janus.model import (
    JANUS_EMBEDDING_PATTERNS,
    JANUS_IMAGE_DECODE_PATTERNS,
    JANUS_LAYER_PATTERNS,
)
from corl_jax.models.lora import is_adapter, kernel_of
from corl_jax.planner.calls import GIB
from corl_jax.planner.programs import PlannedStep
from corl_jax.planner.reward_programs import judge_specs
from corl_jax.stages.param_placement import matches_spec
from corl_jax.stages.rl.parts import text_parts

TRAIN_STATE_PARTS = ("parameters", "moments", "reference", "previous_parameters")
"""Parts that are on a chip in every phase. Reward models are too."""


@dataclasses.dataclass(frozen=True)
class ImageCacheSize:
    """Size of the KV cache of an image rollout; with guidance, of both batches of rows.

    Attributes:
      total_gib: all of it.
      read_gib: what a decode step reads, on average over the steps.
      layer_gib: the keys, or the values, of one layer's completions.
    """

    total_gib: float
    read_gib: float
    layer_gib: float


def gib_per_chip(specs: PyTree[jax.ShapeDtypeStruct]) -> float:
    """GiB that the shards of ``specs`` take on one chip."""
    shard_bytes = (
        math.prod(spec.sharding.shard_shape(spec.shape)) * spec.dtype.itemsize
        for spec in jax.tree.leaves(specs)
    )
    return sum(shard_bytes) / GIB


def memory_parts(step: PlannedStep) -> dict[str, float]:
    """GiB per chip by part: train state, weights for sampling, reward models, KV cache.

    ``caches`` is that of the larger rollout, since only one runs at a time.
    """
    state, cfg, setup = step.state, step.stage.cfg, step.setup

    # Sampling has a copy of a weight where it differs from the trained one in value, that is where
    # an adapter was merged into it, or in dtype or sharding.
    adapted_kernels = {kernel_of(path) for path in setup.param_specs if is_adapter(path)}
    copied_specs = [
        spec
        for path, spec in setup.rollout_param_specs.items()
        if path in adapted_kernels or not matches_spec(setup.param_specs[path], spec)
    ]

    # Below adapters the frozen base model itself is the reference policy.
    has_reference_copy = cfg.needs_reference and not adapted_kernels
    return {
        "parameters": gib_per_chip((state.trainable, state.frozen)),
        "moments": gib_per_chip(state.opt_state),
        "reference": gib_per_chip(state.trainable) if has_reference_copy else 0.0,
        "previous_parameters": gib_per_chip(state.previous),
        "rollout_parameters": gib_per_chip(copied_specs),
        "reward_models": gib_per_chip(
            [*(model.params for model in step.reward_models.values()), judge_specs(step.stage)]
        ),
        "caches": max(image_cache_size(step).total_gib, text_cache_gib(step)),
    }


def resident_gib(parts: Mapping[str, float], phase: str) -> float:
    """GiB of ``memory_parts`` that stay on a chip while a phase runs."""
    # The update runs without the weights for sampling.
    sampling_gib = 0.0 if phase == "update" else parts["rollout_parameters"]
    return sum(parts[name] for name in (*TRAIN_STATE_PARTS, "reward_models")) + sampling_gib


def image_cache_size(step: PlannedStep) -> ImageCacheSize:
    """The KV cache of the image rollout.

    Each prompt is cached once, and its completions, ``[Y, N, K, T - 1, C]``, refer to it; see
    ``sampling.decode``.
    """
    rollout_cfg, image_tokens = step.stage.cfg.rollout, step.setup.cfg.image_tokens
    if "image" not in step.stage.cfg.tasks:
        return ImageCacheSize(0.0, 0.0, 0.0)

    # With guidance, every row also has an unconditional one.
    guidance_rows = 2 if rollout_cfg.uses_guidance else 1
    completion_rows = guidance_rows * rollout_cfg.image_prompts * rollout_cfg.group_size
    prompt_rows = guidance_rows * step.stage.rollout_sampler.rows_per_step("image")
    prompt_positions = prompt_rows * step.stage.cfg.prompt_length("image")

    # On average, half of the completions' positions are filled.
    gib = _position_gib(step)
    total = (completion_rows * (image_tokens - 1) + prompt_positions) * gib
    read = (completion_rows * (image_tokens - 1) / 2 + prompt_positions) * gib
    layer = completion_rows * (image_tokens - 1) * gib / step.setup.cfg.decoder.depth / 2
    return ImageCacheSize(total, read, layer)


def text_cache_gib(step: PlannedStep) -> float:
    """The KV cache of the largest rollout of texts: every prompt once, and its completions."""
    cfg, sampler = step.stage.cfg, step.stage.rollout_sampler
    positions = [0]
    for part in text_parts(cfg.parts):
        # Prompts are repeated only where there are fewer of them than devices.
        completions = sampler.samples(part) * cfg.text_length(part)
        positions.append(completions + sampler.rows_per_step(part) * cfg.prompt_length(part))
    return max(positions) * _position_gib(step)


def decode_weights_gib(step: PlannedStep) -> float:
    """Weights on a chip that decoding an image token reads once."""
    return gib_per_chip(
        [
            spec
            for path, spec in step.setup.rollout_param_specs.items()
            if matches(path, JANUS_IMAGE_DECODE_PATTERNS)
        ]
    )


def min_update_link_bytes(step: PlannedStep) -> float:
    """Bytes that a chip must send over its links in an update whose parameters are sharded.

    A pass over the backbone, one per part and micro-batch, all-gathers its layers twice, forward
    and backward, and reduce-scatters their gradient once, in the dtype of the matrix products.
    Parameters outside the layers do so once per micro-batch. Kernels below adapters are gathered
    too, but have no gradient. The text embedding table is not gathered: rows are looked up on the
    chip that has them. Chips that hold the same shard (mesh axis ``data``) also all-reduce its
    gradient.
    """
    mesh, state, parts = step.setup.sharder.mesh.shape, step.state, len(step.stage.cfg.parts)

    # The share of a parameter that crosses a chip's links in one gather, and in the all-reduce.
    gather_share = (mesh["fsdp"] - 1) / mesh["fsdp"] / mesh["tensor"]
    all_reduce_share = 2 * (mesh["data"] - 1) / mesh["data"] / mesh["fsdp"] / mesh["tensor"]

    # What is gathered: trained parameters outside the embedding table, and kernels below adapters.
    gathered_specs = {
        path: spec
        for path, spec in state.trainable.items()
        if not matches(path, JANUS_EMBEDDING_PATTERNS)
    }
    adapted_kernels = {
        kernel_of(path): state.frozen[kernel_of(path)]
        for path in state.trainable
        if is_adapter(path)
    }

    def bytes_per_pass(specs: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> float:
        """Bytes of ``specs``, where layers count once per part."""
        return sum(
            math.prod(spec.shape)
            * _matmul_itemsize(step, path)
            * (parts if matches(path, JANUS_LAYER_PATTERNS) else 1)
            for path, spec in specs.items()
        )

    # Gathered forward and backward, and the gradient scattered once; frozen kernels have none.
    gather_bytes = (
        bytes_per_pass(gathered_specs) * 3 * gather_share
        + bytes_per_pass(adapted_kernels) * 2 * gather_share
    )
    all_reduce_bytes = bytes_per_pass(state.trainable) * all_reduce_share
    return step.microbatches * (gather_bytes + all_reduce_bytes)


def _matmul_itemsize(step: PlannedStep, path: str) -> int:
    """Bytes per number of a parameter in the dtype in which it is multiplied.

    Rollout weights are kept in that dtype; an adapter is multiplied in the dtype of its kernel.
    """
    return step.setup.rollout_param_specs[
        kernel_of(path) if is_adapter(path) else path
    ].dtype.itemsize


def _position_gib(step: PlannedStep) -> float:
    """GiB per chip of the keys and values of one position of one row, all layers together."""
    decoder, sharder = step.setup.cfg.decoder, step.setup.sharder
    is_quantized = step.stage.cfg.rollout.cache_dtype == "int8"
    itemsize = 1 if is_quantized else step.compute_dtype.itemsize

    # Rows are sharded over the batch axes, and heads over the tensor axis as far as they divide.
    shards = sharder.batch_shards * math.gcd(decoder.kv_heads, sharder.mesh.shape["tensor"])
    return 2 * decoder.depth * decoder.kv_heads * decoder.head_size * itemsize / shards / GIB
