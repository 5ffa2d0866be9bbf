"""A source whose records name a template for their questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import SupportsIndex

from corl_jax.core.types import Record
from corl_jax.data.sources.base import DescribedSource


@dataclasses.dataclass(frozen=True)
class TemplatedSource:
    """The records of ``source`` with ``template``; all else is as it was.

    Attributes:
      source: of the records.
      template: a name or text, see ``data.question_templates``.
    """

    source: DescribedSource
    template: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return dataclasses.replace(self.source[index], template=self.template)

    def text_record(self, index: int) -> Record:
        """See ``CheckedSource``; the template is part of the record, so widths count it."""
        return dataclasses.replace(self.source.text_record(index), template=self.template)

    @property
    def unreadable(self) -> Mapping[int, str]:
        """See ``CheckedSource``."""
        return self.source.unreadable

    @property
    def has_image_files(self) -> bool:
        """See ``CheckedSource``."""
        return self.source.has_image_files

    def check_image(self, index: int) -> None:
        """See ``CheckedSource``."""
        self.source.check_image(index)

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """See ``DescribedSource``."""
        return self.source.qa_type_and_kind(index)

    def image_bytes(self, index: int) -> bytes | None:
        """See ``DescribedSource``."""
        return self.source.image_bytes(index)

    def fingerprint(self) -> str:
        """Of the source: the template is part of the config."""
        return self.source.fingerprint()


def with_template(source: DescribedSource, template: str) -> DescribedSource:
    """``source``, whose records name ``template``."""
    return source if template == "as_is" else TemplatedSource(source, template)
