"""The generation suites by name: how their prompts are read, how many pictures, and where they go."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.suites.generation import layouts
from corl_jax.suites.generation.dpg_prompts import read_dpg
from corl_jax.suites.generation.geneval_prompts import read_geneval
from corl_jax.suites.generation.layouts import Layout
from corl_jax.suites.generation.prompt_files import (
    read_prompt_list,
    read_t2i_compbench,
    read_wise,
)
from corl_jax.suites.generation.prompts import GenerationPrompt


@dataclasses.dataclass(frozen=True)
class GenerationSuite:
    """One suite of prompts.

    Attributes:
      name: as a user names it.
      read: reads its prompts from what its owners publish.
      samples: pictures per prompt as its official figures need.
      layout: the files that its official judge reads.
      source: where the number of samples and the layout come from.
      is_fixed: whether its judge takes no other number of samples.
    """

    name: str
    read: Callable[[pathlib.Path], tuple[GenerationPrompt, ...]]
    samples: int
    layout: Layout
    source: str
    is_fixed: bool = False

    def check_samples(self, samples: int) -> int:
        """``samples``, which the layout can hold.

        Raises:
          UserError: it cannot.
        """
        if samples < 1 or (self.is_fixed and samples != self.samples):
            expectation = str(self.samples) if self.is_fixed else "at least 1"
            raise UserError(
                f"samples of the suite {self.name!r} must be {expectation}, see {self.source}; got "
                f"{samples}. Leave the number out"
            )
        return samples


generation_suites: Registry[GenerationSuite] = Registry("generation suite")

for _suite in (
    GenerationSuite(
        name="geneval",
        read=read_geneval,
        samples=4,
        layout=layouts.GENEVAL,
        source="github.com/djghosh13/geneval, README.md",
    ),
    GenerationSuite(
        name="dpg",
        read=read_dpg,
        samples=4,
        layout=layouts.DPG,
        source="github.com/TencentQQGYLab/ELLA, dpg_bench/dist_eval.sh (PIC_NUM)",
        is_fixed=True,
    ),
    GenerationSuite(
        name="wise",
        read=read_wise,
        samples=1,
        layout=layouts.WISE,
        source="github.com/PKU-YuanGroup/WISE, gpt_eval.py",
        is_fixed=True,
    ),
    GenerationSuite(
        name="t2i_compbench",
        read=read_t2i_compbench,
        samples=10,
        layout=layouts.T2I_COMPBENCH,
        source="github.com/Karine-Huang/T2I-CompBench, GORS_finetune/inference_eval.py (n_iter)",
    ),
    GenerationSuite(
        name="prompts",
        read=read_prompt_list,
        samples=4,
        layout=layouts.PLAIN,
        source="docs/suites_generation.md",
    ),
):
    generation_suites.register(_suite.name)(_suite)
