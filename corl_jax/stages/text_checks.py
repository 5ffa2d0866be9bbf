"""What a run needs of the texts of its records, without anything that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.unusable_records import Check
from corl_jax.engine.optim import make_optimizer
from corl_jax.stages.setup import build_setup
from corl_jax.stages.start_checks import STAGES
from corl_jax.stages.whole_config import check_config, optim_config


@dataclasses.dataclass(frozen=True)
class TextChecks:
    """Checks and measures of texts.

    Attributes:
      checks: what must be true of every record.
      lengths: from a record to the tokens of its texts, by their names.
    """

    checks: tuple[Check, ...] = ()
    lengths: Callable[[Record], Mapping[str, int]] = lambda record: {}

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> TextChecks:
        """Those of the stage of a config, by the tokenizer of its policy.

        Raises:
          UserError: a value of the config that is wrong.
        """
        run_config = check_config(config)
        setup = build_setup(config)
        stage = STAGES[run_config.stage](config, setup, make_optimizer(optim_config(config)))

        def lengths(record: Record) -> dict[str, int]:
            tokens = {}
            for name in ("prompt", "question", "solution"):
                # A text that no task of the run uses may be one that its tokenizer cannot encode.
                try:
                    tokens[name] = len(setup.tokenizer.encode(vars(record)[name]))
                except UserError:
                    continue
            return tokens

        return cls(tuple(stage.text_checks()), lengths)
