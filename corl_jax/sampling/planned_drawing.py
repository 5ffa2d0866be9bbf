"""Pictures that a policy draws behind plans that it writes first, see ``data.plans``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from corl_jax.core.checks.config_block import Seed, check_value
from corl_jax.core.errors import UserError
from corl_jax.data.plans import Plans, plan_openings
from corl_jax.objectives.sampling_distribution import check_sampling_params
from corl_jax.sampling.batching import batch_rows, batch_size, prompt_keys, take
from corl_jax.sampling.plans import behind_plans
from corl_jax.sampling.policy import Policy, Samples


@dataclasses.dataclass(frozen=True)
class PlannedPicture:
    """A picture and the plan behind whose words it was drawn.

    Attributes:
      plan: as the policy wrote it.
      pixels: the picture.
    """

    plan: str
    pixels: UInt8[np.ndarray, "H W 3"]


def draw_behind_plans(
    policy: Policy,
    prompts: Sequence[str],
    plans: Plans,
    samples: int = 4,
    seed: int = 0,
    guidance: float = 2.0,
    temperature: float = 1.0,
) -> list[list[PlannedPicture]]:
    """Writes a plan for each picture, then draws it behind ``prompt. plan``.

    Args:
      policy: what writes and draws.
      prompts: ``N`` of them.
      plans: how they are asked for.
      samples: ``G``, plans and pictures per prompt.
      seed: the same seed, prompt and place in the list give the same plans and pictures.
      guidance: of the pictures; the unconditional prompt has neither prompt nor plan.
      temperature: of plans and pictures; 0 is greedy.

    Returns:
      ``N`` lists of ``G``.

    Raises:
      UserError: a prompt that is empty or cannot be read, a setting out of range, or a plan and a
        picture that are longer than the policy has positions.
    """
    check_value("samples", samples, Samples)
    check_value("seed", seed, Seed)
    check_sampling_params(guidance_scale=guidance, temperature=temperature)
    tokenizer, fns = policy.tokenizer, policy.fns
    requests, openings = plans.requests(tokenizer, prompts), plan_openings(tokenizer, prompts)
    _check_lengths(policy, plans, requests.tokens.shape[1], openings.tokens.shape[1])

    # A key for each plan and each picture.
    names, numbers = ("policy/plan", "policy/draw behind plan"), np.arange(len(prompts))
    plan_keys, keys = (prompt_keys(seed, name, numbers, samples).reshape(-1, 1) for name in names)
    plan_sampling = fns.sampling_params("text", temperature=temperature)
    sampling = fns.sampling_params("image", guidance=guidance, temperature=temperature)

    # Calls of one shape, whose rows are pictures.
    pictures: list[PlannedPicture] = []
    total = len(prompts) * samples
    for rows, num_rows in batch_rows(total, batch_size(total, policy.rows)):
        with policy.on_devices():
            written = fns.sample_text(
                policy.params,
                take(requests, rows // samples),
                plan_keys[rows],
                plan_sampling,
                plans.length,
            )
            behind = behind_plans(take(openings, rows // samples), written, tokenizer)
            drawn = fns.sample_images(
                policy.params, behind, keys[rows], sampling, guided=guidance != 1
            )
        tokens, pixels = np.asarray(written.tokens)[:num_rows, 0], np.asarray(drawn.pixels)
        pictures += [
            PlannedPicture(tokenizer.decode(plan), picture[0])
            for plan, picture in zip(tokens, pixels[:num_rows], strict=True)
        ]
    return [pictures[start : start + samples] for start in range(0, total, samples)]


def _check_lengths(policy: Policy, plans: Plans, request: int, opening: int) -> None:
    """Raises UserError where a plan, or a picture behind it, exceeds the positions."""
    limit = policy.cfg.decoder.max_length
    longest = min(limit - request, limit - opening - policy.cfg.image_tokens)
    if plans.length > longest:
        raise UserError(
            f"a plan must have at most {longest} tokens, so that its request and the picture behind "
            f"it fit the {limit} positions of the policy; got {plans.length}"
        )
