"""``config.data.mixture``: several sets of records, each with its weights and its template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

from corl_jax.core.checks.config_block import (
    Count,
    Keys,
    NotEmpty,
    OneOf,
    Weight,
    config_block,
    show,
)
from corl_jax.core.errors import UserError
from corl_jax.core.types import COLUMN_FIELDS
from corl_jax.data.question_templates import QuestionTemplateName
from corl_jax.data.records import QA_TYPES
from corl_jax.data.sources.addresses import SHAPES
from corl_jax.stages.config import DataConfig, read_block

Weights = Annotated[
    tuple[Weight, ...], NotEmpty(), "Give one for the whole run, or one per stage of data.stages"
]


@config_block
class PartConfig:
    """``config.data.mixture.NAME``: one set of records in a mixture.

    Attributes:
      source, columns, question_kinds, qa_type, limit, template: as in ``stages.config.DataConfig``.
      image_weight, text_weight: its weight among the records of the task, one for the whole run or
        one per stage; 0 leaves it out.
    """

    source: Annotated[str, NotEmpty()]
    columns: Annotated[Mapping[str, str], Keys(COLUMN_FIELDS)] = dataclasses.field(
        default_factory=dict
    )
    question_kinds: tuple[str, ...] = ()
    qa_type: Annotated[str, OneOf(("", *QA_TYPES))] = ""
    limit: Count = 0
    template: Annotated[str, QuestionTemplateName()] = "as_is"
    image_weight: Weights = (1.0,)
    text_weight: Weights = (1.0,)

    def weights(self, task: str, stages: int) -> tuple[float, ...]:
        """The weight in each of so many stages."""
        values = {"image": self.image_weight, "text": self.text_weight}[task]
        return values * stages if len(values) == 1 else values

    def as_data(self, data: DataConfig) -> DataConfig:
        """``data`` with the source and the selection of this part."""
        names = ("source", "columns", "question_kinds", "qa_type", "limit", "template")
        return dataclasses.replace(data, **{name: vars(self)[name] for name in names})


def read_parts(data: DataConfig) -> dict[str, PartConfig]:
    """``config.data.mixture`` by name; keys that are left out have their defaults.

    Raises:
      UserError: a key or value that a part cannot have.
    """
    defaults = vars(PartConfig(source=SHAPES))
    parts = {}
    for name, block in data.mixture.items():
        key = f"data.mixture.{name}"
        if not isinstance(block, Mapping) or "source" not in block or "/" in name:
            raise UserError(
                f"config.data.mixture must have names without '/', each of a block with a source; "
                f"got {show({name: block})}"
            )
        part = read_block(PartConfig, defaults | dict(block), key)
        for field in ("image_weight", "text_weight"):
            given = len(vars(part)[field])
            if given not in (1, len(data.stages) + 1):
                raise UserError(
                    f"config.{key}.{field} must have 1 weight, or {len(data.stages) + 1}, one per "
                    f"stage of config.data.stages={data.stages}; got {given}"
                )
        parts[name] = part
    return parts
