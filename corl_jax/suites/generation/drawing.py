"""Draws the pictures of a suite with a policy: resumable prompt by prompt, the same in any batch.

All processes of a mesh sample together; only the first one reads and writes files. The caller opens
the ``sharding_context``, as for ``evals.generation``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import (
    assert_same_on_all,
    on_first_process,
    texts_of_processes,
)
from corl_jax.core.types import Prompts, Record
from corl_jax.evals.config import EvalPolicy
from corl_jax.objectives.sampling_distribution import check_sampling_params
from corl_jax.suites.generation.picture_files import (
    complete_prompts,
    remove_staging,
    write_pictures,
)
from corl_jax.suites.generation.picture_stream import DrawSettings, draw_pictures
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import GenerationSuite
from corl_jax.suites.results import PICTURES, SuiteRecord
from corl_jax.suites.settings import keep_settings, make_results_folder
from corl_jax.tasks.text_to_image import TextToImage

DRAWING = "drawing.json"
"""File with the settings that the pictures beside it were drawn with."""


def draw_suite(
    policy: EvalPolicy,
    positions: int,
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    folder: pathlib.Path,
    settings: DrawSettings,
    about_policy: Mapping[str, Any],
    quiet: bool = False,
) -> tuple[SuiteRecord, ...]:
    """Draws the pictures that are missing into ``folder/pictures``, as the suite's judge reads them.

    Args:
      policy: what draws.
      positions: tokens that it can read and write in one sequence.
      suite: its layout is that of the folder.
      prompts: from ``suite.read``, all or some of them.
      folder: of the results; it is made, on the first process.
      settings: the picture of a sample depends on the seed, the prompt's id and the number of the
        sample, whatever else is drawn.
      about_policy: JSON values that tell policies apart; a folder has the pictures of one.
      quiet: shows no progress bar.

    Returns:
      a record per picture, prompt by prompt.

    Raises:
      UserError: on all processes, if a prompt cannot be read by the policy, a setting is out of
        range, the folder has pictures of other settings, or it cannot be written.
    """
    if not prompts:
        raise UserError(f"prompts of the suite {suite.name!r} must be at least one; got none")
    suite.check_samples(settings.samples)
    check_sampling_params(guidance_scale=settings.guidance, temperature=settings.temperature)
    batch = _make_prompts(policy, positions, suite, prompts)
    target = folder / PICTURES

    # Hosts read the prompts by themselves, and all of them draw the same.
    about = _about(suite, prompts, settings, about_policy)
    assert_same_on_all("list of prompts, or other settings,", json.dumps(about))

    def begin() -> str:
        make_results_folder(folder)
        keep_settings(folder / DRAWING, about, "pictures", has_output=target.exists())
        complete = complete_prompts(target, suite.layout, prompts, settings.samples)
        return "".join("1" if is_complete else "0" for is_complete in complete)

    # The files of the first process count, since hosts need not share a disk.
    complete = texts_of_processes(on_first_process(begin) or "")[0]
    missing = np.flatnonzero([flag == "0" for flag in complete])

    with tqdm(
        total=len(prompts) * settings.samples,
        initial=(len(prompts) - len(missing)) * settings.samples,
        desc=suite.name,
        file=sys.stderr,
        ascii=True,
        mininterval=1.0,
        unit="picture",
        disable=quiet or jax.process_index() > 0,
    ) as bar:
        for place, pictures in draw_pictures(policy, batch, prompts, missing, settings):

            def write(place: int = place, pictures: np.ndarray = pictures) -> None:
                write_pictures(target, suite.layout, prompts[place], pictures)

            on_first_process(write)
            bar.update(settings.samples)

    on_first_process(lambda: remove_staging(target))
    return picture_records(suite, prompts, settings.samples)


def picture_records(
    suite: GenerationSuite, prompts: Sequence[GenerationPrompt], samples: int
) -> tuple[SuiteRecord, ...]:
    """A record without scores for every picture, prompt by prompt."""
    return tuple(
        SuiteRecord(
            id=f"{prompt.id}/{sample}",
            cluster=prompt.id,
            category=prompt.category,
            prompt=prompt.prompt,
            reference="",
            output="",
            picture=f"{PICTURES}/{suite.layout.picture_name(prompt, sample, samples)}",
            scores={},
        )
        for prompt in prompts
        for sample in range(samples)
    )


def prompt_record(suite: GenerationSuite, prompt: GenerationPrompt) -> Record:
    """The prompt as tasks and rewards read it."""
    location = f"prompt {prompt.id!r} of the suite {suite.name!r}"
    return Record(prompt.id, prompt.prompt, None, "", "", "OE", location=location)


def _make_prompts(
    policy: EvalPolicy,
    positions: int,
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
) -> Prompts:
    """All prompts in one width, so that every call has one shape and a resumed one, too."""
    task = TextToImage(policy.tokenizer)
    records = [prompt_record(suite, prompt) for prompt in prompts]
    for record in records:
        tokens = len(task.prompt_ids(record)) + policy.fns.cfg.image_tokens
        if tokens > positions:
            raise UserError(
                f"{record.location} must have at most {positions - policy.fns.cfg.image_tokens} "
                f"tokens, the {positions} positions of the policy without those of a picture; got "
                f"{tokens - policy.fns.cfg.image_tokens}. Shorten it or leave it out"
            )
    return task.make_prompts(records).prompts


def _about(
    suite: GenerationSuite,
    prompts: Sequence[GenerationPrompt],
    settings: DrawSettings,
    about_policy: Mapping[str, Any],
) -> dict[str, Any]:
    """What decides the pictures of a folder."""
    texts = json.dumps([[prompt.id, prompt.prompt] for prompt in prompts])
    entries = dataclasses.asdict(settings)
    del entries["batch_size"]  # changes rounding alone
    return entries | {
        "suite": suite.name,
        "prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(texts.encode()).hexdigest(),
        "policy": dict(about_policy),
    }
