"""The card of a policy that is being exported, with its pictures."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence

from corl_jax import __version__
from corl_jax.core.trees import flatten_abstract
from corl_jax.models.janus.model import abstract
from corl_jax.porting import hub
from corl_jax.porting.hub_content import CARD_FILE
from corl_jax.porting.policy_source import PolicySource
from corl_jax.report.card.facts import CardFacts, Layout
from corl_jax.report.card.measures import read_suite
from corl_jax.report.card.render import render_card
from corl_jax.report.card.run_facts import read_run


def make_card(
    source: PolicySource,
    name: str,
    layout: Layout,
    dtype: str,
    *,
    license: str = "",
    base_model: str = "",
    results: Sequence[pathlib.Path] = (),
) -> dict[str, bytes]:
    """The files of a card by their path in the exported folder.

    Args:
      source: the policy; a work directory brings the facts of its run.
      name: of the repository, or of the folder.
      layout: that is written.
      dtype: of the weights that are written.
      license: its id on the hub; "" to be filled in.
      base_model: what the user says the policy was made from; "" to take what is known.
      results: folders of ``corl evaluate`` about this policy.

    Raises:
      UserError: a file of the run cannot be read, or results are of another policy.
    """
    run, started_from = None, ""
    pictures: dict[str, bytes] = {}
    is_run = source.workdir is not None and source.adapters is None
    # Checkpoints that were copied alone say nothing about their run.
    if source.workdir is not None and is_run and (source.workdir / "config.json").is_file():
        run, pictures, started_from = read_run(source.workdir)

    # A copy of a model of the hub is made from it, too, and so are merged adapters from their base.
    copied_from = source.name if source.revision is not None else ""
    if source.adapters is not None:
        copied_from = source.adapters.settings.base
    base = base_model or started_from or copied_from
    identity = source.identity() if results else None
    facts = CardFacts(
        name=name,
        layout=layout,
        license=license,
        base=base if hub.is_id(base) else "",
        base_policy=base,
        parameters=sum(
            math.prod(leaf.shape) for leaf in flatten_abstract(abstract(source.cfg)).values()
        ),
        image_size=source.cfg.image_size,
        image_tokens=source.cfg.image_tokens,
        dtype=dtype,
        run=run,
        suites=tuple(read_suite(folder, source.name, identity) for folder in results),
        version=__version__,
    )
    return {CARD_FILE: render_card(facts).encode(), **pictures}
