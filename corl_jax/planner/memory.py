"""What lies on a chip, by part, from shapes and placement alone. In: an abstract step. Out: GiB per chip."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from corl_jax.core.trees import matches
from corl_jax.models.lora import is_adapter, kernel_of
from corl_jax.planner.programs import Step
from corl_jax.stages.param_placement import matches_spec

GIB = 2**30
LAYERS = ("*/layers/*",)
TABLES = ("language_model/embed/*",)
READ = ("language_model/layers/*", "language_model/norm/*", "gen_head/*", "gen_aligner/*")
"""Parameters that a step over image tokens reads whole."""
STATE = ("parameters", "moments", "reference", "previous_parameters")
"""Parts that lie on a chip from the first step to the last; reward models do too."""


@dataclasses.dataclass(frozen=True)
class CacheSize:
    """Of the image rollout, both streams of guidance: all of it, what a step reads on average, one layer."""

    total_gib: float
    read_gib: float
    layer_gib: float


def on_chip(tree: Any) -> float:
    """GiB of placed shapes on one device."""
    leaves = jax.tree.leaves(tree)
    return (
        sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in leaves
        )
        / GIB
    )


def parts(step: Step) -> dict[str, float]:
    """The state of training, the reference, the copy that samples, reward models; caches of the larger rollout."""
    state, settings = step.state, step.stage.settings
    merged = {kernel_of(path) for path in step.parts.structs if is_adapter(path)}
    moved = [
        one
        for path, one in step.parts.rollout.items()
        if path in merged or not matches_spec(step.parts.structs[path], one)
    ]
    return {
        "parameters": on_chip((state.trainable, state.frozen)),
        "moments": on_chip(state.opt_state),
        "reference": on_chip(state.trainable) if settings.needs_reference and not merged else 0.0,
        "previous_parameters": on_chip(state.previous),
        "rollout_parameters": on_chip(moved),
        "reward_models": on_chip([net.params for net in step.reward_models.values()]),
        "caches": max(image_cache(step).total_gib, text_cache(step)),
    }


def image_cache(step: Step) -> CacheSize:
    """``[Y, N, K, T - 1, C]`` behind one reading of each prompt; see ``sampling.decode``."""
    s, tokens = step.stage.settings, step.parts.cfg.image_tokens
    if "image" not in s.asked:
        return CacheSize(0.0, 0.0, 0.0)
    streams = 2 if s.guided_sampler else 1
    own, shared = (
        streams * s.pictures * s.group,
        streams * step.stage.rollouts.rows_in("image") * s.image_prompt_length,
    )
    position = _position(step)
    total = (own * (tokens - 1) + shared) * position
    read = (own * (tokens - 1) / 2 + shared) * position
    return CacheSize(total, read, own * (tokens - 1) * position / step.parts.cfg.decoder.depth / 2)


def text_cache(step: Step) -> float:
    """The same for answers, in GiB."""
    s = step.stage.settings
    if "text" not in s.asked:
        return 0.0
    kept = (
        s.questions * s.group * s.completion_length
        + step.stage.rollouts.rows_in("text") * s.text_prompt_length
    )
    return kept * _position(step)


def decoding_weights(step: Step) -> float:
    """GiB of weights that lie on a chip and are read once per image token."""
    return on_chip([one for path, one in step.parts.rollout.items() if matches(path, READ)])


def update_collectives(step: Step) -> float:
    """Bytes that a chip must send in an update whose trained parameters are spread.

    A pass over the trunk, one for each task of each micro-batch, gathers its layers twice, forward and backward, and
    hands their gradient back once, in the dtype they are multiplied in; so does a micro-batch with what is no layer.
    Under adapters their kernels are gathered too, and have no gradient. The table of words is looked up where it lies.
    Where chips repeat each other's share (the axis ``data``), they add up its gradient beside that, there and back.
    """
    mesh, tasks = step.parts.sharder.mesh.shape, len(step.stage.settings.asked)
    share = (mesh["fsdp"] - 1) / mesh["fsdp"] / mesh["tensor"]
    repeated = 2 * (mesh["data"] - 1) / mesh["data"] / mesh["fsdp"] / mesh["tensor"]
    state = step.state
    gathered = {path: one for path, one in state.trainable.items() if not matches(path, TABLES)}
    under = {
        kernel_of(path): state.frozen[kernel_of(path)]
        for path in state.trainable
        if is_adapter(path)
    }

    def sent(structs: Mapping[str, Any]) -> float:
        return sum(
            math.prod(one.shape) * _multiplied(step, path) * (tasks if matches(path, LAYERS) else 1)
            for path, one in structs.items()
        )

    once = sent(gathered) * 3 * share + sent(under) * 2 * share
    return step.microbatches * (once + sent(state.trainable) * repeated)


def _multiplied(step: Step, path: str) -> int:
    """Bytes of a number of a parameter as it is multiplied."""
    return step.parts.rollout[kernel_of(path) if is_adapter(path) else path].dtype.itemsize


def _position(step: Step) -> float:
    """GiB that keys and values of one position of one row take on a chip, all layers."""
    d, sharder = step.parts.cfg.decoder, step.parts.sharder
    size = 1 if step.stage.settings.rollout_cache == "int8" else step.compute_dtype.itemsize
    spread = sharder.batch_shards * math.gcd(d.kv_heads, sharder.mesh.shape["tensor"])
    return 2 * d.depth * d.kv_heads * d.head_size * size / spread / GIB
