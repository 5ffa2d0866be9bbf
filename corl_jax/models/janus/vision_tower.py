"""The SigLIP tower that reads images to understand: images in [-1, 1] to one state per patch.

Compatible with the vision tower of Janus-Pro: exact GELU, learned positions, no class token, final
norm.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corl_jax.core.sharding import constrain
from corl_jax.models.attention_kernels import kernels
from corl_jax.models.janus.config import VisionConfig
from corl_jax.models.layers import linear, scan_layers, stack


def layer_norm(width: int, eps: float, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
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

    def __init__(self, cfg: VisionConfig, attention: str, dtype: DTypeLike, rngs: nnx.Rngs):
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
        """States of ``S`` patches after this block."""
        rows, patches, width = x_NSD.shape
        h_NSD = self.norm1(x_NSD)
        q_NSHC, k_NSHC, v_NSHC = (
            projection(h_NSD).reshape(rows, patches, self.heads, width // self.heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )

        # No mask: every patch attends to every patch.
        attend = kernels[self.kernel].attend
        mixed_NSHC = attend(q_NSHC, k_NSHC.swapaxes(1, 2), v_NSHC.swapaxes(1, 2), None)
        x_NSD = x_NSD + self.o_proj(mixed_NSHC.reshape(h_NSD.shape))

        h_NSF = jax.nn.gelu(self.fc1(self.norm2(x_NSD)), approximate=False)
        return constrain(x_NSD + self.fc2(h_NSF), "batch")


class VisionTower(nnx.Module):
    """Patch embedding, learned positions, blocks, final norm."""

    def __init__(
        self,
        cfg: VisionConfig,
        *,
        dtype: DTypeLike,
        remat: str,
        unroll: int = 1,
        attention: str = "einsum",
        rngs: nnx.Rngs,
    ):
        self.cfg, self.dtype, self.remat, self.unroll = cfg, dtype, remat, unroll
        # Stride and kernel of the patch size: patches do not overlap.
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
        # A learned vector for each patch, at the one image size of the model.
        positions_SD = nnx.initializers.normal(0.02)(rngs.params(), (cfg.tokens, cfg.width))
        self.position = nnx.Param(positions_SD, logical=("positions", "vision"))
        self.layers = stack(
            lambda layer: VisionBlock(cfg, attention, dtype, layer), cfg.depth, rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Images in [-1, 1] to one state per patch, row by row."""
        # The grid of patches is flattened row by row.
        patches_NhwD = self.patch_embed(images)
        x_NSD = patches_NhwD.reshape(patches_NhwD.shape[0], -1, patches_NhwD.shape[-1])
        x_NSD = x_NSD + self.position[...].astype(x_NSD.dtype)

        def run_block(block, index_and_carry):
            _, x_NSD = index_and_carry
            return block(x_NSD)

        depth, remat, unroll = self.cfg.depth, self.remat, self.unroll
        x_NSD = scan_layers(self.layers, run_block, x_NSD, depth, self.dtype, remat, unroll)
        return jnp.asarray(self.norm(x_NSD))
