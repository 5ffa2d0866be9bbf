"""Reads a work directory for its card: the facts of the run, and the pictures beside them."""

from __future__ import annotations

import pathlib

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import check_inside
from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.handoff import saved_manifest
from corl_jax.report import run_files
from corl_jax.report.card.facts import CURVES, SAMPLES, RunFacts
from corl_jax.report.card.measures import compare_sides
from corl_jax.report.card.pictures import draw_curves, draw_samples
from corl_jax.report.card.provenance import provenance_of
from corl_jax.report.card.recipe import (
    config_text,
    data_of,
    datasets_of,
    guidance_of,
    recipe_of,
    start_of,
)
from corl_jax.report.page import STAGE_TITLES


def read_run(workdir: pathlib.Path) -> tuple[RunFacts, dict[str, bytes], str]:
    """All that a card says about a run.

    Args:
      workdir: of the run; parts whose files are missing are left out.

    Returns:
      The facts, pictures by their path in the folder, and what the run started from, as ``start_of``
      names it.

    Raises:
      UserError: a file is damaged.
    """
    config_file = run_files.read_config(workdir)
    _check_data(config_file.block("data"))
    config, manifest = config_file.entries, saved_manifest(workdir)
    evals = run_files.read_evals(workdir)
    base, start = start_of(config, manifest.inputs)

    pictures: dict[str, bytes] = {}
    if curves := draw_curves(run_files.read_metrics(workdir)):
        pictures[CURVES] = curves
    samples, prompts = _add_samples(workdir, pictures)

    records = manifest.inputs["records"]["count"] if manifest.inputs else None
    stage = str(config["stage"])
    facts = RunFacts(
        title=STAGE_TITLES.get(stage, stage),
        start=start,
        data=data_of(config, records),
        recipe=recipe_of(config),
        provenance=provenance_of(workdir, evals["run"], manifest.step, manifest.versions),
        datasets=datasets_of(config),
        config=config_text(config),
        measures=compare_sides(evals),
        samples=samples,
        prompts=prompts,
        has_curves=CURVES in pictures,
        guidance=guidance_of(config),
    )
    return facts, pictures, base


def _check_data(data: JsonObject) -> None:
    """Checks what the card says about records; other keys are shown as they are."""
    data.text("source")
    data.number("held_out", 0.0)
    data.integer("limit", 0)
    mixture = data.optional_block("mixture")
    for name in mixture.entries:
        mixture.block(name).text("source")


def base_of_adapters(workdir: pathlib.Path, base_model: str) -> str:
    """The policy that the adapters of a run belong to, by a name under which others find it.

    Args:
      workdir: of the run.
      base_model: what the user says it is; "" to take what the run started from.

    Raises:
      UserError: the run started from something that others do not have.
    """
    if base_model:
        return base_model
    config = run_files.read_config(workdir).entries
    name, phrase = start_of(config, saved_manifest(workdir).inputs)
    if not name:
        raise UserError(
            "--base-model must say where others find what the adapters belong to, since the run "
            f"started from {phrase}; give its id on the Hugging Face hub, or a folder: export it "
            "first, in the layout of transformers"
        )
    return name


def _add_samples(workdir: pathlib.Path, pictures: dict[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """Adds a sheet of samples, and returns what it shows and its prompts."""
    galleries = run_files.read_galleries(workdir)
    try:
        sheet, prompts = draw_samples(galleries)
    except ValueError as error:
        raise UserError(
            f"the galleries of {str(workdir)!r} must be as a run writes them; got {error}. "
            "Check samples/gallery_*.json, or pass --no-card"
        ) from None
    if sheet:
        pictures[SAMPLES] = sheet
        sides = " and ".join(side for side in ("before", "after") if side in galleries)
        guidance = galleries[sides.split()[0]]["guidance"]
        return (
            f"Held-out prompts, not chosen by hand, {sides} the run; samples at temperature 1 and "
            f"guidance scale {guidance:g}. A green frame means that a picture shows exactly what "
            "was asked for, where that can be told."
        ), prompts

    # A run that was not evaluated has the sheets of its training.
    sheets = sorted((workdir / "samples").glob("step_*.png"))
    if not sheets:
        return "", ()
    check_inside(sheets[-1], workdir)
    pictures[SAMPLES] = sheets[-1].read_bytes()
    step = sheets[-1].stem.split("_")[1]
    when = f" in step {int(step)}" if step.isdigit() else ""
    return f"Samples of training prompts{when}.", ()
