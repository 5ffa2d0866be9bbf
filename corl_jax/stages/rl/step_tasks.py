"""What asks the policy for each part of a step, as the config has it."""

from __future__ import annotations

import dataclasses

from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.setup import Setup
from corl_jax.tasks.base import Task
from corl_jax.tasks.planning import Planning
from corl_jax.tasks.self_check import SelfCheck
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


@dataclasses.dataclass(frozen=True)
class StepTasks:
    """The tasks, and the parts beside them.

    Attributes:
      text_to_image: the image task.
      visual_qa: the text task.
      planning: of plans that images are drawn behind; None for no plans.
      self_check: of verdicts on images that were drawn; None for no verdicts.
    """

    text_to_image: TextToImage
    visual_qa: VisualQA
    planning: Planning | None
    self_check: SelfCheck | None

    @classmethod
    def of(cls, setup: Setup, cfg: RlConfig) -> StepTasks:
        """Those of a config, with its widths."""
        tokenizer, image_tokens = setup.tokenizer, setup.cfg.image_tokens
        text_to_image = TextToImage(
            tokenizer,
            cfg.rollout.image_prompt_length,
            "rl.rollout.image_prompt_length",
            has_plan=cfg.plans is not None,
        )
        visual_qa = VisualQA(
            tokenizer,
            image_tokens,
            setup.cfg.image_size,
            cfg.rollout.text_prompt_length,
            "rl.rollout.text_prompt_length",
            with_pictures=cfg.rollout.question_pictures,
        )

        planning = self_check = None
        if cfg.plans is not None:
            planning = Planning(
                tokenizer, cfg.plans, cfg.plan.prompt_length, "rl.plan.prompt_length"
            )
        if cfg.check.prompts:
            self_check = SelfCheck(
                tokenizer,
                cfg.check.template,
                image_tokens,
                cfg.check.prompt_length,
                "rl.check.prompt_length",
            )
        return cls(text_to_image, visual_qa, planning, self_check)

    @property
    def by_part(self) -> dict[str, Task]:
        """Part to what asks for it, see ``parts.PARTS``."""
        tasks: dict[str, Task] = {"image": self.text_to_image, "text": self.visual_qa}
        if self.planning is not None:
            tasks["plan"] = self.planning
        if self.self_check is not None:
            tasks["check"] = self.self_check
        return tasks
