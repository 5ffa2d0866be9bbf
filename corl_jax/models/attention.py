"""Self-attention with explicit masks: over a sequence, over a KV cache, or with a shared prefix.

States, rotary angles and masks go in. Mixed states and the updated cache come out.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corl_jax.models.attention_kernels import PLAIN, attend, kernels
from corl_jax.models.int8 import dequantized
from corl_jax.models.kv_cache import Index, KVArray, KVCache
from corl_jax.models.layers import RotaryAngles, apply_rotary, linear
from corl_jax.models.shared_prefix import attend_shared_prefix, attend_shared_prefix_causally


class SelfAttention(nnx.Module):
    """Rotary grouped-query self-attention without biases (Llama).

    ``kernel`` is a name in ``models.attention_kernels``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_size: int,
        *,
        kernel: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.heads, self.kv_heads, self.head_size, self.kernel = heads, kv_heads, head_size, kernel

        # Heads are sharded over the tensor axis; a device computes the attention of its own heads.
        self.q_proj = linear(
            width, heads * head_size, ("embed", "heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(
            width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.v_proj = linear(
            width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.o_proj = linear(
            heads * head_size,
            width,
            ("heads", "embed"),
            bias=False,
            dtype=dtype,
            rngs=rngs,
            wide=True,
        )

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        rope: RotaryAngles,
        mask_NLS: Bool[Array, "N L S"],
        cache: KVCache | None,
        layer: Index,
        index: Index,
    ) -> tuple[Float[Array, "N L D"], KVCache | None]:
        """Mixes ``x``; with a cache, writes its keys and values and attends to the cache.

        Args:
          x_NLD: states.
          rope: angles of their positions, from ``layers.rotary_angles``.
          mask_NLS: true where a query attends. ``S`` is ``L`` without a cache. With one it counts
            the positions that are read: those of the shared part, then the cache's first ones.
          cache: of all layers, or None.
          layer: number of this layer in the cache.
          index: first position to write, not counting the shared part.
        """
        q_NLHC, k_NKSC, v_NKSC = _heads_first(*self._project(x_NLD, rope))

        # The keys and values of x are written first, so that x attends to itself through the cache.
        # The shared part is complete: it is read and never written.
        kv: tuple[KVArray, KVArray] = k_NKSC, v_NKSC
        shared_kv, slots = None, None
        if cache is not None:
            cache = cache.write(k_NKSC, v_NKSC, layer, index)
            shared_length = 0 if cache.shared is None else cache.shared.length
            if cache.shared is not None:
                shared_kv = cache.shared.layer(layer, shared_length)
                slots = cache.slots
            length = mask_NLS.shape[-1] - shared_length
            kv = cache.layer(layer, length)

        # A single query waits for memory, not for arithmetic: it needs no kernel, and reads an int8
        # cache as it is. Kernels for many queries take no int8.
        if shared_kv is not None:
            mixed_NLHC = attend_shared_prefix(q_NLHC, shared_kv, kv, mask_NLS, slots)
        elif x_NLD.shape[1] == 1:
            mixed_NLHC = attend(q_NLHC, *kv, mask_NLS)
        else:
            k_NKSC, v_NKSC = (dequantized(x_NKSC, q_NLHC.dtype) for x_NKSC in kv)
            mixed_NLHC = kernels[self.kernel].attend(q_NLHC, k_NKSC, v_NKSC, mask_NLS)
        return self._output(mixed_NLHC), cache

    def shared_prefix_step(
        self,
        x_BLD: Float[Array, "B L D"],
        rope: RotaryAngles,
        mask_BPP: Bool[Array, "B P P"],
        mask_NTS: Bool[Array, "N T PT"],
    ) -> Float[Array, "B L D"]:
        """Mixes prompts and the ``G = N / B`` completions of each.

        Prompts and completions are one array for the projections, and two for attention.

        Args:
          x_BLD: states of each prompt and then of its completions, ``L = P + G * T``.
          rope: angles of their positions.
          mask_BPP: mask of the prompts.
          mask_NTS: mask of the completions: ``P`` columns of the prompt, then ``T`` of the
            completion, none of them after the query.
        """
        prompts, prompt_length, _ = mask_BPP.shape
        rows, completion_length, _ = mask_NTS.shape

        # The projections have a row per prompt, [B, P + G * T]. For attention the completions get
        # their own rows, [N, T].
        projected = self._project(x_BLD, rope)
        prompt_q, prompt_k, prompt_v = _heads_first(
            *(leaf[:, :prompt_length] for leaf in projected)
        )
        q, k, v = _heads_first(
            *(
                leaf[:, prompt_length:].reshape(rows, completion_length, *leaf.shape[2:])
                for leaf in projected
            )
        )

        # Each completion attends to its prompt and to itself. Then both are one array again.
        prompt_mixed = kernels[self.kernel].attend(prompt_q, prompt_k, prompt_v, mask_BPP)
        mixed = self._attend_behind_prefix(q, (prompt_k, prompt_v), (k, v), mask_NTS)
        mixed = mixed.reshape(prompts, -1, *prompt_mixed.shape[2:])
        return self._output(jnp.concatenate([prompt_mixed, mixed], 1))

    def _attend_behind_prefix(
        self,
        q_NTHC: Float[Array, "N T H C"],
        prefix_kv: tuple[Float[Array, "B K P C"], Float[Array, "B K P C"]],
        row_kv: tuple[Float[Array, "N K T C"], Float[Array, "N K T C"]],
        mask_NTS: Bool[Array, "N T PT"],
    ) -> Float[Array, "N T H C"]:
        """Completions attend to their prompt and to themselves."""
        if self.kernel == PLAIN:
            return attend_shared_prefix_causally(q_NTHC, prefix_kv, row_kv, mask_NTS)

        # A kernel reads one sequence of keys, so each completion has its prompt's in front.
        samples = len(q_NTHC) // len(prefix_kv[0])
        k_NKSC, v_NKSC = (
            jnp.concatenate([jnp.repeat(prefix, samples, 0), row], 2)
            for prefix, row in zip(prefix_kv, row_kv, strict=True)
        )
        return kernels[self.kernel].attend(q_NTHC, k_NKSC, v_NKSC, mask_NTS)

    def _project(
        self, x_NLD: Float[Array, "N L D"], rope: RotaryAngles
    ) -> tuple[Float[Array, "N L H C"], Float[Array, "N L K C"], Float[Array, "N L K C"]]:
        """Queries, keys and values; queries and keys are rotated."""
        rows, length, _ = x_NLD.shape

        # Values have no position, so they are not rotated.
        q_NLHC = self.q_proj(x_NLD).reshape(rows, length, self.heads, self.head_size)
        q_NLHC = apply_rotary(q_NLHC, *rope)
        k_NLKC = self.k_proj(x_NLD).reshape(rows, length, self.kv_heads, self.head_size)
        k_NLKC = apply_rotary(k_NLKC, *rope)
        v_NLKC = self.v_proj(x_NLD).reshape(rows, length, self.kv_heads, self.head_size)
        return q_NLHC, k_NLKC, v_NLKC

    def _output(self, mixed_NLHC: Float[Array, "N L H C"]) -> Float[Array, "N L D"]:
        """The output projection of all heads together, in float32."""
        return self.o_proj(mixed_NLHC.reshape(*mixed_NLHC.shape[:2], -1))


def _heads_first(
    q_NLHC: Float[Array, "N L H C"],
    k_NLKC: Float[Array, "N L K C"],
    v_NLKC: Float[Array, "N L K C"],
) -> tuple[Float[Array, "N L H C"], Float[Array, "N K L C"], Float[Array, "N K L C"]]:
    """Keys and values with heads before positions, as kernels and caches expect; queries stay."""
    return q_NLHC, k_NLKC.swapaxes(1, 2), v_NLKC.swapaxes(1, 2)
