"""What a card says, as plain values without anything of the machine in them."""

from __future__ import annotations

import dataclasses
from typing import Literal

Layout = Literal["transformers", "original", "adapters"]
CURVES, SAMPLES = "card/curves.png", "card/samples.png"
"""Pictures of a card, by their path in the folder."""

Pairs = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One line of a table of measurements, as text.

    Attributes:
      name: of the metric.
      words: what it means; "" where its name is all.
      before, after: values with their standard errors; "" where it was not measured.
      change: with an interval; "" with fewer than two values.
      records: that the values are means over.
    """

    name: str
    words: str
    before: str
    after: str
    change: str
    records: int


@dataclasses.dataclass(frozen=True)
class SuiteFacts:
    """What a suite measured: its name, settings worth knowing, and its metrics (in ``after``)."""

    suite: str
    settings: Pairs
    measures: tuple[Measure, ...]


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What is known of the run that trained a policy.

    Attributes:
      title: of the stage, such as ``reinforcement learning``.
      start: what it started from, in words.
      data, recipe, provenance: names and values.
      datasets: ids on the Hugging Face hub of what it was trained on.
      config: all of it, as JSON.
      measures: held out, before and after; () for none.
      samples: what the sheet of samples shows; "" where there is none.
      prompts: of the rows of the sheet.
      has_curves: whether there is a picture of curves.
      guidance: scale of classifier-free guidance of its rollouts; None where it has none.
    """

    title: str
    start: str
    data: Pairs
    recipe: Pairs
    provenance: Pairs
    datasets: tuple[str, ...]
    config: str
    measures: tuple[Measure, ...]
    samples: str
    prompts: tuple[str, ...]
    has_curves: bool
    guidance: float | None


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """All of a card.

    Attributes:
      name: repository, or name of the folder.
      layout: what the folder holds.
      license: its id on the Hugging Face hub; "" to be filled in.
      base: id on the Hugging Face hub of what the policy was made from; "" where it has none there.
      base_policy: name by which ``Policy.load`` finds the base of adapters.
      parameters: of the whole model.
      image_size: pixels of a side.
      image_tokens: of one image.
      dtype: of the weights.
      run: that trained it; None where there is none.
      suites: what was measured besides.
      version: of corl_jax that wrote it.
    """

    name: str
    layout: Layout
    license: str
    base: str
    base_policy: str
    parameters: int
    image_size: int
    image_tokens: int
    dtype: str
    run: RunFacts | None
    suites: tuple[SuiteFacts, ...]
    version: str
