"""The programs that compute the rewards of a step, traced over abstract arrays.

Captions count at their largest length, and texts are compared at ``COMPARED_TEXT_LENGTH`` tokens.
What a user's own reward runs is not known to the planner.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from corl_jax.core.checks.paths import user_path
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Params, Prompts, Rollout
from corl_jax.planner.calls import ProgramCall
from corl_jax.reward_models.base import TINY, LoadedModel, abstract_reward_model
from corl_jax.reward_models.batched import global_rows
from corl_jax.reward_models.bert import similarity
from corl_jax.reward_models.blip import captioner
from corl_jax.reward_models.clip import text_image
from corl_jax.reward_models.collection import SPECS
from corl_jax.reward_models.lpips import distance
from corl_jax.rewards.requirements import model_use_counts, needs_reference, required_models
from corl_jax.sampling.likelihood import mean_image_log_probs, mean_log_probs
from corl_jax.sampling.policy_handle import TEXT_STEP, WIDTH_STEP, prompt_matching
from corl_jax.stages.rl.stage import RlStage

COMPARED_TEXT_LENGTH = 64
"""Tokens of a text that is compared with another, one of
``reward_models.bert.similarity.PADDED_LENGTHS``."""

AbstractRows = Callable[[tuple[int, ...], DTypeLike], jax.ShapeDtypeStruct]
"""Shape and dtype to an abstract batch; ``programs.PlannedStep.abstract_rows``."""


def abstract_reward_models(stage: RlStage) -> dict[str, LoadedModel]:
    """The reward models of a run by name, without weights."""
    options, sharder = stage.cfg.reward_options, stage.setup.sharder
    models = {}
    for name in sorted(required_models(_image_rewards(stage), options)):
        models[name] = abstract_reward_model(SPECS[name], options.models.get(name, ""), sharder)
    return models


def assumed_size_notes(stage: RlStage) -> list[str]:
    """One sentence per reward model whose folder is not on this machine.

    ``abstract_reward_model`` then assumes the sizes of the model that the papers used.
    """
    options, notes = stage.cfg.reward_options, []
    for name in sorted(required_models(_image_rewards(stage), options)):
        # Known are the sizes of the tiny model, of the papers' model, and of a folder here.
        source, hub_id = options.models.get(name, ""), SPECS[name].hub_id
        has_known_sizes = source in (TINY, hub_id) or (
            source and user_path(source, f"config.rewards.options.models.{name}").is_dir()
        )
        if not has_known_sizes:
            notes.append(
                f"config.rewards.options.models.{name}={source!r} is not a folder on this machine; "
                f"planned with the sizes of {hub_id}"
            )
    return notes


def reward_program_calls(
    stage: RlStage, abstract_rows: AbstractRows, reward_models: Mapping[str, LoadedModel]
) -> list[ProgramCall]:
    """The programs that the rewards of a step run."""
    cfg = stage.cfg
    calls = [] if "text" not in cfg.tasks else _text_reward_calls(stage, abstract_rows)
    samples = cfg.rollout.image_prompts * cfg.rollout.group_size
    rows_per_call = global_rows(stage.setup.sharder.batch_shards, samples)

    # A model that several rewards use runs once for each of them.
    use_counts = model_use_counts(_image_rewards(stage), cfg.reward_options)
    for name, uses in sorted(use_counts.items()):
        if name in POLICY_PROGRAMS:
            # The policy reads all samples of a step in one call.
            prompts = _image_text_prompts(stage, abstract_rows)
            calls.append(
                ProgramCall(functools.partial(POLICY_PROGRAMS[name], stage, prompts), uses)
            )
        else:
            # A reward model reads a fixed number of rows per call; the last call is filled up.
            trace = functools.partial(
                MODEL_PROGRAMS[name], reward_models[name], abstract_rows, rows_per_call
            )
            calls.append(ProgramCall(trace, uses * -(-samples // rows_per_call)))
    return calls


def _text_reward_calls(stage: RlStage, abstract_rows: AbstractRows) -> list[ProgramCall]:
    """The programs that rewards of texts run; most of those rewards run on the host alone."""
    cfg = stage.cfg
    uses = model_use_counts(cfg.rewards["text"], cfg.reward_options)["picture_log_probs"]
    trace = functools.partial(_trace_picture_log_probs, stage, abstract_rows)
    return [ProgramCall(trace, uses)] if uses else []


def judge_specs(stage: RlStage) -> Params:
    """Parameters that rewards read with, beside those of the policy in training; {} for none."""
    cfg = stage.cfg
    names = [name for task in cfg.tasks for name in cfg.rewards[task]]
    has_judge = needs_reference(names, cfg.reward_options)
    return cast(Params, stage.setup.rollout_param_specs) if has_judge else {}


def _image_rewards(stage: RlStage) -> list[str]:
    """Names of the rewards of images."""
    return list(stage.cfg.rewards["image"]) if "image" in stage.cfg.tasks else []


def _image_text_prompts(stage: RlStage, abstract_rows: AbstractRows) -> Prompts:
    """All images of a step, each in a prompt with a text of ``COMPARED_TEXT_LENGTH``."""
    rollout_cfg, side = stage.cfg.rollout, stage.setup.cfg.image_size
    samples = rollout_cfg.image_prompts * rollout_cfg.group_size

    # The template of a question is shorter than a step of widths.
    needed = stage.setup.cfg.image_tokens + COMPARED_TEXT_LENGTH
    width = (-(-needed // WIDTH_STEP) + 1) * WIDTH_STEP
    shape = (samples, min(width, rollout_cfg.text_prompt_length))
    return Prompts(
        tokens=abstract_rows(shape, jnp.int32),
        mask=abstract_rows(shape, jnp.bool_),
        images=abstract_rows((samples, side, side, 3), jnp.float32),
    )


def _trace_matching(stage: RlStage, prompts: Prompts) -> jax.stages.Traced:
    """How well images and captions match, by the policy's states."""
    return prompt_matching.trace(
        stage.setup.rollout_policy, stage.setup.rollout_param_specs, prompts, prompts.mask
    )


def _trace_prompt_log_probs(stage: RlStage, prompts: Prompts) -> jax.stages.Traced:
    """How likely captions are behind images, by a judge."""
    texts = [
        jax.ShapeDtypeStruct(
            (leaf.shape[0], COMPARED_TEXT_LENGTH), leaf.dtype, sharding=leaf.sharding
        )
        for leaf in (prompts.tokens, prompts.mask)
    ]
    params = stage.setup.rollout_param_specs
    return mean_log_probs.trace(stage.setup.rollout_policy, params, prompts, *texts, "text")


def _trace_picture_log_probs(stage: RlStage, abstract_rows: AbstractRows) -> jax.stages.Traced:
    """How likely pictures are as drawings of texts, by a judge."""
    rollout_cfg, side = stage.cfg.rollout, stage.setup.cfg.image_size
    samples = rollout_cfg.text_prompts * rollout_cfg.group_size
    width = -(-rollout_cfg.completion_length // TEXT_STEP) * TEXT_STEP
    prompts = Prompts(
        tokens=abstract_rows((samples, width), jnp.int32),
        mask=abstract_rows((samples, width), jnp.bool_),
    )
    images = abstract_rows((samples, side, side, 3), jnp.float32)
    return mean_image_log_probs.trace(
        stage.setup.rollout_policy, stage.setup.rollout_param_specs, prompts, images
    )


def _trace_answers(stage: RlStage, prompts: Prompts) -> jax.stages.Traced:
    """Greedy answers of the policy."""
    policy = stage.setup.rollout_policy

    def answer(params: Params, prompts: Prompts) -> Rollout:
        keys = sample_keys(stream(0, "answers", 0), prompts.tokens.shape[0])[:, None]
        sampling = policy.sampling_params("text", temperature=0.0)
        return policy.sample_text(
            params, prompts, keys, sampling, stage.cfg.rollout.completion_length
        )

    return jax.jit(answer).trace(stage.setup.rollout_param_specs, prompts)


def _trace_captioner(
    model: LoadedModel, abstract_rows: AbstractRows, rows: int
) -> jax.stages.Traced:
    """Captions of ``rows`` images."""
    side = model.cfg.vision.image_size
    images = abstract_rows((rows, side, side, 3), jnp.uint8)
    program = captioner.make_caption_program(model)
    return program.trace(model.params, images, captioner.MAX_CAPTION_TOKENS)


def _trace_similarity(
    model: LoadedModel, abstract_rows: AbstractRows, rows: int
) -> jax.stages.Traced:
    """Similarity of ``rows`` pairs of texts."""
    length = min(COMPARED_TEXT_LENGTH, model.cfg.max_tokens)
    pairs = abstract_rows((rows, 2, length), jnp.int32)
    lengths = abstract_rows((rows, 2), jnp.int32)
    return similarity.make_f1_program(model).trace(model.params, pairs, lengths)


def _trace_clip(model: LoadedModel, abstract_rows: AbstractRows, rows: int) -> jax.stages.Traced:
    """Similarity of ``rows`` images and texts."""
    side = model.cfg.image_size
    images = abstract_rows((rows, side, side, 3), jnp.uint8)
    token_ids = abstract_rows((rows, model.cfg.context), jnp.int32)
    return text_image.make_cosine_program(model).trace(model.params, images, token_ids)


def _trace_lpips(model: LoadedModel, abstract_rows: AbstractRows, rows: int) -> jax.stages.Traced:
    """Distance of ``rows`` pairs of images."""
    images = abstract_rows((rows, distance.IMAGE_SIZE, distance.IMAGE_SIZE, 3), jnp.uint8)
    return distance.make_distance_program(model).trace(model.params, images, images)


POLICY_PROGRAMS = {
    "states": _trace_matching,
    "answers": _trace_answers,
    "prompt_log_probs": _trace_prompt_log_probs,
}
"""Use of the policy (see ``rewards.requirements.model_use_counts``) to its program."""

MODEL_PROGRAMS = {
    "captioner": _trace_captioner,
    "bert": _trace_similarity,
    "sentence": _trace_similarity,
    "clip": _trace_clip,
    "hps": _trace_clip,
    "lpips": _trace_lpips,
}
"""Name of a reward model to its program."""
