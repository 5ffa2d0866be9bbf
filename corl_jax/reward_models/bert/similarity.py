"""How similar two texts are to a text encoder, token by token.

In: pairs of texts. Out: one F1 in [0, 1] per pair, in the order of the pairs (see
docs/decisions.md#row-order).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import largest_of_processes
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import bind
from corl_jax.core.types import Params
from corl_jax.reward_models.base import LoadedModel
from corl_jax.reward_models.batched import map_in_batches
from corl_jax.reward_models.bert.tokenizer import (
    BERT_SPECIAL_TOKENS,
    MPNET_SPECIAL_TOKENS,
    WordPieceTokenizer,
)

PADDED_LENGTHS = (32, 64, 128, 256, 512)
"""Lengths that texts are padded to, so that few programs are compiled; see ``TextSimilarity``."""

TokenRows = Sequence[Sequence[int]]
"""Ids of several texts, start and end token included; rows differ in length."""


class TextSimilarity:
    """F1 of greedily matched tokens on the last layer of an encoder.

    Tokens are not weighted by rarity and F1 is not rescaled; the start and end tokens do not count.
    Texts beyond the encoder's limit are cut off.
    """

    def __init__(self, model: LoadedModel, sharder: Sharder):
        """Reads the tokenizer; nothing is compiled yet.

        Args:
          model: loaded as ``BERT`` or ``SENTENCE`` of ``reward_models.bert.weights``.
          sharder: the mesh that the model is on.

        Raises:
          UserError: the folder's tokenizer is missing, damaged, or of another model.
        """
        self._model = model
        self._sharder = sharder
        max_tokens = model.cfg.max_tokens

        # Only MPNet has buckets of distances.
        special_tokens = MPNET_SPECIAL_TOKENS if model.cfg.buckets else BERT_SPECIAL_TOKENS
        self._tokenizer = WordPieceTokenizer(
            model.folder, special_tokens, max_tokens, model.cfg.vocab_size
        )

        # The longest padded length is the encoder's limit.
        shorter = (length for length in PADDED_LENGTHS if length < max_tokens)
        self._padded_lengths = (*shorter, max_tokens)
        self._program = make_f1_program(model)

    def f1(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """The F1 of each pair of texts.

        Compatible with BERTScore (Zhang et al. 2020, equations 1 to 3) as torchmetrics computes it.

        Args:
          candidates: ``N`` texts, e.g. captions of generated images.
          references: ``N`` texts, e.g. prompts.

        Returns:
          float32 ``[N]`` in [0, 1]; 0 where either text has no words. With several processes each
          passes its own rows, equally many, and all must call.

        Raises:
          UserError: the numbers of candidates and references differ.
        """
        if len(candidates) != len(references):
            raise UserError(
                f"there must be one reference for each candidate; got {len(candidates)} "
                f"candidates and {len(references)} references"
            )

        # No rows, no program.
        if not candidates:
            return np.zeros(0, np.float32)

        # Tokenized and padded on the host.
        tokens, lengths = self._pad(self._tokenizer(candidates), self._tokenizer(references))
        return map_in_batches(
            self._sharder,
            lambda *batch: self._program(self._model.params, *batch),
            [tokens, lengths],
        )

    def _pad(
        self, candidate_rows: TokenRows, reference_rows: TokenRows
    ) -> tuple[Int[np.ndarray, "N 2 L"], Int[np.ndarray, "N 2"]]:
        """Ids and lengths of the candidate (0) and the reference (1) of each pair."""
        # All processes run one program, so the longest text of any process sets the length.
        longest = max(len(row) for row in (*candidate_rows, *reference_rows))
        longest = largest_of_processes(longest)
        length = next(length for length in self._padded_lengths if length >= longest)

        # A row has at least its start and end token.
        pair_count = len(candidate_rows)
        tokens = np.full((pair_count, 2, length), self._tokenizer.pad_id, np.int32)
        lengths = np.full((pair_count, 2), 2, np.int32)
        for side, rows in enumerate((candidate_rows, reference_rows)):
            for i, row in enumerate(rows):
                tokens[i, side, : len(row)] = row
                lengths[i, side] = len(row)
        return tokens, lengths


class BertScore(TextSimilarity):
    """BERTScore on BERT's last layer.

    It is the text side of the cycle reward in the first version of ULM-R1's code.
    """


class SentenceSimilarity(TextSimilarity):
    """The same F1 on the states of a sentence encoder.

    The second version of ULM-R1's code uses it instead of BERT.
    """


def greedy_f1(
    candidates_NLD: Float[Array, "N L D"],
    candidate_mask_NL: Bool[Array, "N L"],
    references_NLD: Float[Array, "N L D"],
    reference_mask_NL: Bool[Array, "N L"],
) -> Float[Array, "N"]:
    """F1 of the cosines of each token with its most similar token in the other text.

    A negative cosine counts as 0: the public implementations have zeros in the place of masked
    tokens, and take the maximum over those as well. The result is 0 where a text has no tokens.

    Args:
      candidates_NLD: states of the candidates.
      candidate_mask_NL: which of those positions are tokens.
      references_NLD: states of the references.
      reference_mask_NL: which of those positions are tokens.
    """

    def unit_vectors(x: Float[Array, "N L D"], mask: Bool[Array, "N L"]) -> Float[Array, "N L D"]:
        # Masked positions become zeros.
        norm = jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return x * (mask[..., None] / norm)

    # Every token of one text with every token of the other, [N, L, S].
    cosine = jnp.einsum(
        "NLD,NSD->NLS",
        unit_vectors(candidates_NLD, candidate_mask_NL),
        unit_vectors(references_NLD, reference_mask_NL),
    )
    cosine = jnp.maximum(cosine, 0)

    # The best match of each token, averaged over the tokens (equations 1 to 3).
    precision = jnp.sum(cosine.max(2), 1) / jnp.maximum(candidate_mask_NL.sum(1), 1)
    recall = jnp.sum(cosine.max(1), 1) / jnp.maximum(reference_mask_NL.sum(1), 1)
    return 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)


def make_f1_program(model: LoadedModel) -> jax.stages.Wrapped:
    """The jitted program ``(params, tokens [N, 2, L], lengths [N, 2]) -> F1 [N]``.

    Candidates and references go through the encoder in one batch, in full float32 on every device.
    """

    def run(
        params: Params, tokens: Int[Array, "N 2 L"], lengths: Int[Array, "N 2"]
    ) -> Float[Array, "N"]:
        pair_count, sides, length = tokens.shape
        with jax.default_matmul_precision("highest"):
            # Both texts of all pairs as rows of one batch.
            states = bind(model.graphdef, params)(
                tokens.reshape(pair_count * sides, length), lengths.reshape(pair_count * sides)
            )
            states = states.reshape(pair_count, sides, length, -1)

            # Neither the start token nor the end token is part of a text.
            position = jnp.arange(length)
            mask = (position >= 1) & (position < lengths[..., None] - 1)
            return greedy_f1(states[:, 0], mask[:, 0], states[:, 1], mask[:, 1])

    return jax.jit(run)
