"""Pages from templates: what a value contains is shown as text and never becomes part of a page.

Templates are Jinja's, in ``templates/`` of this folder. A page is one file: style and pictures are
inside, it has no script, and its policy lets a browser load nothing else.
"""

from __future__ import annotations

import functools
import re

import jinja2
from markupsafe import Markup

from corl_jax.report import metric_text


def page_templates(package: str) -> jinja2.Environment:
    """The templates of HTML in ``templates/`` of a package."""
    # A name that a template uses and nobody passes is an error, and never an empty place.
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_templates("corl_jax.report")
    environment.globals["metric"] = metric_text
    environment.filters["tags_apart"] = _tags_apart
    return environment


def render(template: str, **values: object) -> str:
    """A template of ``templates/`` with its values filled in; texts are escaped.

    Args:
      template: file name.
      **values: by the names that the template uses; ``Markup`` alone is put in as it is.

    Raises:
      jinja2.UndefinedError: a value is missing.
    """
    return _environment().get_template(template).render(**values)


def _tags_apart(text: str) -> Markup:
    """A text, escaped, with tags such as ``<think>`` in a softer colour."""
    parts = re.split(r"(</?\w+>)", text)
    tag = Markup('<span class="tag">{}</span>')
    return Markup().join(tag.format(part) if i % 2 else part for i, part in enumerate(parts))
