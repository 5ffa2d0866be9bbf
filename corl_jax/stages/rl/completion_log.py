"""The samples of some steps with prompts, rewards and advantages, for people: ``completions/``.

On several processes these are the first process's own samples, so nothing is gathered: its first
prompts of each task, and of a prompt that is spread over processes the samples that it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.types import PromptBatch, Record, Rewards, Rollout
from corl_jax.data.question_templates import fill_in_question
from corl_jax.data.records import image_of
from corl_jax.engine.completions import StepSample
from corl_jax.engine.hooks import Report
from corl_jax.engine.state import TrainState
from corl_jax.stages.config import HooksConfig
from corl_jax.stages.rl.config_blocks import TASKS
from corl_jax.stages.rl.rollouts import RolloutSampler
from corl_jax.tasks.base import Task


class CompletionLog:
    """Remembers the samples of a step that is to be written; a hook of the loop.

    Args:
      hooks: how often, and how many prompts.
      total_steps: steps of the run.
      tasks: by name; they turn rollouts into completions.
      rollout_sampler: knows which samples this process has.
    """

    def __init__(
        self,
        hooks: HooksConfig,
        total_steps: int,
        tasks: Mapping[str, Task],
        rollout_sampler: RolloutSampler,
    ):
        self._every, self._groups = hooks.completions_every, hooks.completions_groups
        self._total_steps, self._tasks = total_steps, tasks
        self._rollout_sampler = rollout_sampler
        self._samples: list[StepSample] = []

    def remember(
        self,
        steps_done: int,
        prompts: Mapping[str, PromptBatch],
        local_rollouts: Mapping[str, Rollout],
        rewards: Mapping[str, Rewards],
        advantages: Mapping[str, Any],
    ) -> None:
        """Keeps what is to be written of a step, on the first process.

        Args:
          steps_done: with this step.
          prompts, local_rollouts: this process's rows, by part.
          rewards, advantages: of all samples of the step, by part that earns rewards.
        """
        self._samples = []
        is_last = steps_done == self._total_steps
        if jax.process_index() > 0 or not self.is_due(steps_done, is_last):
            return
        plans = self._plan_texts(prompts, local_rollouts)
        for task in filter(rewards.__contains__, TASKS):
            advantage = np.ravel(np.asarray(advantages[task]))
            self._samples += self._task_samples(
                task, prompts[task], local_rollouts[task], rewards[task], advantage, plans
            )

    def _plan_texts(
        self, prompts: Mapping[str, PromptBatch], local_rollouts: Mapping[str, Rollout]
    ) -> dict[int, str]:
        """Number of an image within the step to the plan that it was drawn behind."""
        if "plan" not in local_rollouts:
            return {}
        completions = self._tasks["plan"].to_completions(prompts["plan"], local_rollouts["plan"])
        samples = self._rollout_sampler.samples("plan")
        numbers = np.ravel(self._rollout_sampler.local_values("plan", np.arange(samples)))
        return {
            int(number): completion.text or ""
            for number, completion in zip(numbers, completions, strict=True)
        }

    def _task_samples(
        self,
        task: str,
        prompts: PromptBatch,
        local_rollout: Rollout,
        rewards: Rewards,
        advantage: np.ndarray,
        plans: Mapping[int, str],
    ) -> list[StepSample]:
        """The samples of the first prompts that this process has."""
        ids = self._rollout_sampler.row_prompts(task)
        chosen = list(dict.fromkeys(ids))[: self._groups]
        rows = [row for row, prompt in enumerate(ids) if prompt in chosen]

        # Numbers of these samples within the step, whose groups follow each other.
        group_size = self._rollout_sampler.cfg.rollout.group_size
        samples = len(rewards.total)
        all_numbers = self._rollout_sampler.local_values(task, np.arange(samples))
        numbers = np.ravel(all_numbers[rows])

        part = dataclasses.replace(prompts, records=tuple(prompts.records[row] for row in rows))
        rollout: Rollout = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], local_rollout)
        completions = self._tasks[task].to_completions(part, rollout)
        external = np.ravel(rollout.is_external) if rollout.is_external is not None else None
        asked_about = _pictures(part) if task == "text" else {}
        return [
            StepSample(
                task=task,
                record_id=completion.record.id,
                prompt=_prompt_text(task, completion.record),
                sample=int(number % group_size),
                rewards=dict(zip(rewards.names, map(float, rewards.matrix[number]), strict=True)),
                reward=float(rewards.total[number]),
                advantage=float(advantage[number]),
                completion=completion.text,
                reference_answer=completion.record.answer if task == "text" else "",
                is_truncated=completion.is_truncated,
                plan=plans.get(int(number)) if task == "image" else None,
                pixels=completion.pixels,
                prompt_pixels=asked_about.get(completion.record.id),
                is_external=external is not None and bool(external[i]),
            )
            for i, (number, completion) in enumerate(zip(numbers, completions, strict=True))
        ]

    def before_step(self, steps_done: int) -> None:
        """Does nothing."""

    def is_due(self, steps_done: int, is_last: bool) -> bool:
        """True after the first step, at multiples of the interval, and after the last step."""
        if not self._every or steps_done == 0:
            return False
        return steps_done == 1 or steps_done % self._every == 0 or is_last

    def run(self, steps_done: int, state: TrainState) -> Report:
        """The samples of the step."""
        return Report(samples=tuple(self._samples))

    def close(self) -> None:
        """Does nothing."""


def _prompt_text(task: str, record: Record) -> str:
    return fill_in_question(record) if task == "text" else record.prompt


def _pictures(part: PromptBatch) -> dict[str, np.ndarray]:
    """Id to the picture that was asked about; one that is not decoded yet is decoded once."""
    if part.prompts.images is None:
        return {}
    return {record.id: image_of(record) for record in part.records}
