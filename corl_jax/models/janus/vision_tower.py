"""The SigLIP tower that reads pictures for understanding. In: pictures in [-1, 1]; out: one state per patch.

Compatible with the vision tower of Janus-Pro: exact GELU, learned positions, no class token, final norm.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.sharding import constrain
from corl_jax.models.attention_kernels import kernels
from corl_jax.models.janus.config import VisionConfig
from corl_jax.models.layers import linear, scan_layers, stack


def layer_norm(width: int, eps: float, dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm in two passes, as the weights were trained with."""
    return nnx.LayerNorm(
        width,
        epsilon=eps,
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
        scale_metadata={"logical": ("norm",)},
        bias_metadata={"logical": ("norm",)},
    )


class VisionBlock(nnx.Module):
    """Pre-norm bidirectional attention and a GELU MLP, all with biases."""

    def __init__(self, cfg: VisionConfig, attention: str, dtype: Any, rngs: nnx.Rngs):
        self.heads, self.kernel = cfg.heads, attention
        self.norm1 = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.q_proj = linear(
            cfg.width, cfg.width, ("vision", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(
            cfg.width, cfg.width, ("vision", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.v_proj = linear(
            cfg.width, cfg.width, ("vision", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.o_proj = linear(
            cfg.width, cfg.width, ("heads", "vision"), bias=True, dtype=dtype, rngs=rngs
        )
        self.norm2 = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.fc1 = linear(
            cfg.width, cfg.mlp_dim, ("vision", "mlp"), bias=True, dtype=dtype, rngs=rngs
        )
        self.fc2 = linear(
            cfg.mlp_dim, cfg.width, ("mlp", "vision"), bias=True, dtype=dtype, rngs=rngs
        )

    def __call__(self, x_NSD: Float[Array, "N S D"]) -> Float[Array, "N S D"]:
        """One block over ``[N, S, D]``."""
        h = self.norm1(x_NSD)
        heads = (*h.shape[:2], self.heads, h.shape[2] // self.heads)
        q, k, v = (proj(h).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = kernels[self.kernel].attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), None)
        x_NSD = x_NSD + self.o_proj(mixed.reshape(h.shape))
        h = self.fc2(jax.nn.gelu(self.fc1(self.norm2(x_NSD)), approximate=False))
        return constrain(x_NSD + h, "batch")


class VisionTower(nnx.Module):
    """Patch embedding, learned positions, blocks, final norm."""

    def __init__(
        self,
        cfg: VisionConfig,
        *,
        dtype: Any,
        remat: str,
        unroll: int = 1,
        attention: str = "einsum",
        rngs: nnx.Rngs,
    ):
        self.cfg, self.dtype, self.remat, self.unroll = cfg, dtype, remat, unroll
        self.patch_embed = nnx.Conv(
            3,
            cfg.width,
            (cfg.patch_size, cfg.patch_size),
            strides=cfg.patch_size,
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"logical": (None, None, None, "vision")},
            bias_metadata={"logical": ("vision",)},
        )
        positions = nnx.initializers.normal(0.02)(rngs.params(), (cfg.tokens, cfg.width))
        self.position = nnx.Param(positions, logical=("positions", "vision"))
        self.layers = stack(
            lambda streams: VisionBlock(cfg, attention, dtype, streams), cfg.depth, rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Pictures in [-1, 1] to one state per patch, row by row."""
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = x + self.position[...].astype(x.dtype)
        depth, remat, unroll = self.cfg.depth, self.remat, self.unroll
        x = scan_layers(
            self.layers, lambda block, slice_: block(slice_[1]), x, depth, self.dtype, remat, unroll
        )
        return jnp.asarray(self.norm(x))
