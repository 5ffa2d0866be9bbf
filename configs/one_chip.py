"""What of CoRL's Stage I at 1B fits one small chip, by the name of its mesh.

    python -m corl_jax.main --config=configs/unified.py:janus_pro_1b,lora=32,mesh=v5e-1

Found by ``corl plan`` with adapters of rank 32; docs/planning.md has the plans. Without adapters none
of these chips has room for the train state.
"""

from __future__ import annotations

import dataclasses
import math

import ml_collections


@dataclasses.dataclass(frozen=True)
class OneChip:
    """Values that fit.

    Attributes:
      prompts: of a step, and as many questions.
      microbatches: of the update.
      base_dtype: of the frozen base below adapters.
    """

    prompts: int
    microbatches: int
    base_dtype: str


ONE_CHIP = {
    "v5e-1": OneChip(prompts=2, microbatches=2, base_dtype="bfloat16"),
    "l4x1": OneChip(prompts=2, microbatches=2, base_dtype="bfloat16"),
    "a100_40x1": OneChip(prompts=8, microbatches=2, base_dtype="bfloat16"),
}
"""Mesh to what fits its chip. The paper's batch fits one A100 of 80 GB, H100 or H200 as it is."""


def fit_one_chip(c: ml_collections.ConfigDict, mesh: str) -> None:
    """Sets the batch that fits the chip of a mesh; other meshes change nothing.

    The run still passes once through its records, so it has more steps where a step has fewer prompts.

    Args:
      c: CoRL's Stage I at 1B.
      mesh: name of its mesh.
    """
    if mesh not in ONE_CHIP:
        return
    values, records = ONE_CHIP[mesh], c.steps * c.rl.rollout.image_prompts
    c.steps = math.ceil(records / values.prompts)
    c.rl.rollout.update({"image_prompts": values.prompts, "text_prompts": values.prompts})
    c.microbatches = values.microbatches
    # As many records per prompt of a step as on a slice, whose rollouts leave room for them.
    c.evals.batch_size = 2 * values.prompts
    if c.lora.rank:
        c.lora.base_dtype = values.base_dtype
