"""Which commands of the README and the docs are run for real, and what makes them small.

They run in this order, in one folder: later ones use what earlier ones have written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command is run.

    Attributes:
      makes: a file or folder that it writes, relative to the folder that it runs in; "" where it
        only prints.
      replace: words of the page to other words.
      prints: a text that its output has.
    """

    makes: str = ""
    replace: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prints: str = ""


POLICY = {"runs/unified": "dot", "tiny": "dot"}
"""The smallest policy in place of those of the page: another one only takes longer to compile."""

FIRST = "pictures/a-red-circle-left-of-a-blue-square-0.png"
PICTURE = POLICY | {"pictures/NAME.png": FIRST}

RUN: dict[str, Run] = {
    "corl sample --policy runs/unified --prompt 'a red circle left of a blue square' --n 4 --seed 0 "
    "--guidance-scale 2 --temperature 1 --out pictures": Run(FIRST, POLICY),
    "corl ask --policy runs/unified --image pictures/NAME.png "
    "--question 'what colour is the circle?'": Run(replace=PICTURE, prints="\n"),
    "corl score --records records.jsonl --rewards pixel,format --out scores.json": Run(
        "scores.json", prints="pixel"
    ),
    "corl inspect --policy runs/unified": Run(replace=POLICY, prints="language_model"),
    "corl inspect --policy tiny": Run(prints="language_model"),
    "corl prepare data/photos --out data/prepared": Run("data/prepared/prepared.json"),
    "corl tokenize --policy runs/unified --image pictures/NAME.png --out codes": Run(
        "codes", PICTURE
    ),
    "corl export --policy runs/unified --out my_policy": Run("my_policy/config.json", POLICY),
    "corl export --policy runs/unified --out served --dtype bfloat16": Run(
        "served/config.json", POLICY
    ),
    "corl export --policy runs/unified --out served --layout original": Run(
        "served_original/config.json", POLICY | {"served": "served_original"}
    ),
    "corl merge --base runs/unified --experts runs/refined_mc runs/refined_oe --out merged": Run(
        "merged/config.json", POLICY | {"runs/refined_mc": "dot", "runs/refined_oe": "my_policy"}
    ),
}
"""Command to how it is run here."""

RUN_ELSEWHERE = {
    "python -m corl_jax.main --config=configs/unified.py": (
        "tests/test_main.py::test_a_real_run_of_two_steps"
    ),
    "python -m corl_jax.main --config=configs/unified.py:tiny,lora=4": (
        "tests/stages/test_lora.py"
    ),
    "python -m corl_jax.main --config=configs/corl.py --workdir=runs/corl": (
        "tests/pipelines/test_pipeline.py"
    ),
    "python -m corl_jax.main --config=configs/unified.py "
    "--config.rewards.options.custom=my_rewards:brightness "
    "--config.rewards.image.brightness=0.5": "tests/rewards/test_custom.py",
    "corl report --workdir runs/unified": "tests/report/test_report.py",
    "corl evaluate --policy runs/unified --suite pope --data POPE.json --out results/pope": (
        "tests/suites/test_suites.py"
    ),
    "corl compare tiny runs/unified --suite shapes --out compared.html": (
        "tests/suites/test_suites.py"
    ),
    "corl doctor --policy runs/unified": "tests/commands/test_cli.py",
    "corl evaluate --policy runs/unified --suite shapes --n 512 --seed 0 --out eval.json": (
        "tests/commands/test_cli.py"
    ),
}
"""Command to the test that runs it, smaller."""
