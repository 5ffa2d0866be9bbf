"""How alike two texts are to an encoder, token by token. In: pairs of texts, an open ``LoadedModel``; out: a number per pair.

Rows come back in the order in which they went in (decisions 21).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import local_rows_per_call, map_in_batches
from corl_jax.reward_models.bert.tokenizer import BERT_MARKS, MPNET_MARKS, WordPieces

WIDTHS = (32, 64, 128, 256, 512)
"""Lengths to which texts are filled up, so that few programs are compiled; the last is the encoder's own limit."""


class TextSimilarity:
    """F1 of greedily matched tokens on the last layer of an encoder.

    Not weighted by rarity, not rescaled; the marks at both ends are left out. Texts beyond the encoder's limit are cut.
    """

    def __init__(self, net: LoadedModel, sharder: Sharder):
        """Opens the tokenizer; nothing is compiled yet.

        Args:
          net: from ``open_net(BERT, ...)`` or ``open_net(SENTENCE, ...)``.
          sharder: of the run.

        Raises:
          UserError: the folder's tokenizer is missing, damaged, or of another model.
        """
        self._net, self._sharder = net, sharder
        marks = MPNET_MARKS if net.cfg.buckets else BERT_MARKS
        self._pieces = WordPieces(net.folder, marks, net.cfg.max_tokens, net.cfg.vocab_size)
        self._widths = (
            *(width for width in WIDTHS if width < net.cfg.max_tokens),
            net.cfg.max_tokens,
        )
        self._program = comparison(net)

    def f1(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """The F1 of each pair, compatible with BERTScore (Zhang et al. 2020, Eq. 1-3) as torchmetrics computes it.

        Args:
          candidates: ``N`` texts, e.g. captions of generated pictures.
          references: ``N`` texts, e.g. prompts.

        Returns:
          float32 ``[N]`` in [0, 1], row by row; 0 where either text has no words. On several processes each asks about
          as many rows of its own, and all must call.

        Raises:
          UserError: not as many candidates as references.
        """
        if len(candidates) != len(references):
            raise UserError(
                f"there are {len(candidates)} candidates and {len(references)} references; expected one reference for "
                "each candidate"
            )
        if not candidates:
            return np.zeros(0, np.float32)
        rows = [self._pieces(texts) for texts in (candidates, references)]
        tokens, lengths = self._padded(rows)
        return map_in_batches(
            self._sharder, lambda *batch: self._program(self._net.params, *batch), [tokens, lengths]
        )

    def _padded(self, rows: Sequence[Sequence[Sequence[int]]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids ``[N, 2, L]`` and lengths ``[N, 2]``."""
        longest = np.full(
            local_rows_per_call(self._sharder), max(len(row) for side in rows for row in side)
        )
        longest = self._sharder.all_gather_rows(
            longest
        ).max()  # of all processes, which run one program
        width, count = next(width for width in self._widths if width >= longest), len(rows[0])
        tokens = np.full((count, 2, width), self._pieces.pad_id, np.int32)
        lengths = np.full((count, 2), 2, np.int32)
        for side, texts in enumerate(rows):
            for i, row in enumerate(texts):
                tokens[i, side, : len(row)], lengths[i, side] = row, len(row)
        return tokens, lengths


class BertScore(TextSimilarity):
    """BERTScore on the last layer, the text side of CoRL's cycle reward (the reference's first version)."""


class SentenceSimilarity(TextSimilarity):
    """The same on the token states of a sentence encoder (the reference's second version)."""


def greedy_f1(
    left_NLD: Float[Array, "N L D"],
    left_NL: Bool[Array, "N L"],
    right_NLD: Float[Array, "N L D"],
    right_NL: Bool[Array, "N L"],
) -> Float[Array, "N"]:
    """F1 of the cosines of each token with the one most like it; masks say which tokens there are.

    A token that is like none counts 0, not less: the public implementations compare with masked tokens as zeros. The
    result is 0 where a side has no tokens.
    """

    def unit(x: Any, mask: Any) -> Any:
        return x * (
            mask[..., None] / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        )

    cosine = jnp.einsum("NLD,NSD->NLS", unit(left_NLD, left_NL), unit(right_NLD, right_NL))
    cosine = jnp.maximum(cosine, 0)
    precision = jnp.sum(cosine.max(2), 1) / jnp.maximum(left_NL.sum(1), 1)
    recall = jnp.sum(cosine.max(1), 1) / jnp.maximum(right_NL.sum(1), 1)
    return 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)


def comparison(net: LoadedModel) -> Any:
    """The program: both sides through the encoder at once, in full float32 on every device, then ``greedy_f1``."""

    def run(
        params: Params, tokens: Int[Array, "N 2 L"], lengths: Int[Array, "N 2"]
    ) -> Float[Array, "N"]:
        n, sides, width = tokens.shape
        with jax.default_matmul_precision("highest"):
            states = bind(net.graphdef, params)(
                tokens.reshape(n * sides, width), lengths.reshape(n * sides)
            )
            states = states.reshape(n, sides, width, -1)
            at = jnp.arange(width)
            words = (at >= 1) & (at < lengths[..., None] - 1)
            return greedy_f1(states[:, 0], words[:, 0], states[:, 1], words[:, 1])

    return jax.jit(run)
