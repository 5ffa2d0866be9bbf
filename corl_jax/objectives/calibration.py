"""Whether a policy knows how good its own pictures are (Janus-Pro-R1, arXiv 2506.01480)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def calibration(
    scores: Float[np.ndarray, "N"], said_yes: Bool[np.ndarray, "N"], said_no: Bool[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """``1 - |score - [said yes]|``; 0 where the policy said neither yes nor no.

    Args:
      scores: how well pictures match their prompts, in [0, 1], by a scorer that is trusted.
      said_yes, said_no: what the policy says of the same pictures.
    """
    values = 1 - np.abs(scores - said_yes.astype(scores.dtype))
    return np.where(said_yes | said_no, values, np.zeros_like(values))
