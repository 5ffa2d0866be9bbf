"""What is evaluated, and how its samples are made."""

from __future__ import annotations

import dataclasses

from corl_jax.core.types import Params
from corl_jax.data.plans import Plans
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.sampling.batching import batch_size
from corl_jax.sampling.generate import PolicyFns

ANSWER_TOKENS = 32
"""Default limit on the length of an answer, in tokens."""


@dataclasses.dataclass(frozen=True)
class EvalPolicy:
    """The policy that is evaluated.

    Attributes:
      fns: compiled programs of the model.
      params: parameters of the whole model.
      tokenizer: its text tokenizer.
      plans: how it is asked for the plans that it draws behind; None where it draws without.
    """

    fns: PolicyFns
    params: Params
    tokenizer: TextTokenizer
    plans: Plans | None = None


@dataclasses.dataclass(frozen=True)
class EvalSampling:
    """How the samples of an evaluation are made.

    Attributes:
      seed: of sampling.
      batch_size: records per compiled call. The key of a sample does not depend on the call it is
        part of, so this changes no metric beyond rounding.
      answer_tokens: limit on the length of an answer, in tokens.
      shards: devices that divide the rows of a call.
    """

    seed: int
    batch_size: int
    answer_tokens: int = ANSWER_TOKENS
    shards: int = 1

    def rows_per_call(self, records: int) -> int:
        """Rows of every compiled call over so many records, a multiple of ``shards``."""
        return -(-batch_size(records, self.batch_size) // self.shards) * self.shards
