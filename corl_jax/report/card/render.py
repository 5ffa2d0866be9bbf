"""A card as text: facts go in, Markdown with a head of metadata comes out."""

from __future__ import annotations

import functools

import jinja2
from huggingface_hub import ModelCardData

from corl_jax.report.card.facts import CURVES, SAMPLES, CardFacts
from corl_jax.report.card.markdown import Markdown, code, code_block, escape
from corl_jax.report.card.snippets import CITATION, snippets

UNKNOWN_LICENSE = "unknown"
"""The id of the hub where nobody has said yet what it is."""
SUMMARIES = {
    "transformers": "A policy that draws pictures of captions and answers questions about pictures, in the "
    "architecture of Janus. The folder is in the layout of transformers.",
    "original": "A policy that draws pictures of captions and answers questions about pictures, in the "
    "architecture of Janus. The folder is in the layout of Janus's own code.",
    "adapters": "Low-rank adapters of a policy that draws pictures of captions and answers questions about "
    "pictures, in the architecture of Janus. The folder is in the layout of PEFT.",
}
LIBRARIES = {"transformers": "transformers", "original": "corl_jax", "adapters": "peft"}
"""The library that loads the folder, as the hub calls it."""


def render_card(facts: CardFacts) -> str:
    """The text of ``README.md``."""
    base = facts.base_policy if facts.layout == "adapters" else facts.base
    return (
        _environment()
        .get_template("card.md")
        .render(
            head=Markdown(f"---\n{_metadata(facts)}\n---"),
            name=facts.name,
            summary=Markdown(SUMMARIES[facts.layout]),
            run=facts.run,
            parameters=f"{facts.parameters:,}",
            image_size=facts.image_size,
            image_tokens=facts.image_tokens,
            weights=facts.dtype + (f", added to {base}" if facts.layout == "adapters" else ""),
            version=facts.version,
            snippets=snippets(facts),
            suites=facts.suites,
            curves_file=Markdown(CURVES),
            samples_file=Markdown(SAMPLES),
            license=facts.license,
            base=base,
            citation=code_block(CITATION, "bibtex"),
        )
    )


def _metadata(facts: CardFacts) -> str:
    """The head that the Hugging Face hub reads, as YAML."""
    has_adapters = facts.layout == "adapters"
    tags = ["janus", "text-to-image", "image-text-to-text", "reinforcement-learning", "corl_jax"]
    data = ModelCardData(
        license=facts.license or UNKNOWN_LICENSE,
        base_model=facts.base or None,
        base_model_relation=("adapter" if has_adapters else "finetune") if facts.base else None,
        library_name=LIBRARIES[facts.layout],
        pipeline_tag="any-to-any",
        tags=[*tags, "lora"] if has_adapters else tags,
        datasets=list(facts.run.datasets) if facts.run and facts.run.datasets else None,
    )
    yaml = str(data.to_yaml())
    if facts.license:
        return yaml
    line = f"license: {UNKNOWN_LICENSE}"
    return yaml.replace(line, f"{line}  # to be filled in, see the section on the licence", 1)


@functools.cache
def _environment() -> jinja2.Environment:
    # Jinja escapes for HTML alone, so every value that is put in goes through ``escape`` here.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("corl_jax.report"),
        undefined=jinja2.StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["code"] = code
    environment.filters["json_block"] = lambda text: code_block(text, "json")
    environment.filters["numbered"] = lambda text: Markdown(f"{text}.")
    return environment
