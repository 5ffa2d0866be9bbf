"""The symptoms of docs/troubleshooting.md that are quoted are texts that the code really has."""

from __future__ import annotations

import re

from command_lines import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
OF_OTHERS = {
    "ModuleNotFoundError: No module named 'jax'",
    "ImportError",
    "AttributeError",
    "CpuDevice",
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "Killed",
    "Unable to initialize backend",
    "SUSPENDED",
}
"""Texts of JAX, Python, the system and Google Cloud."""


def symptoms():
    """The quoted texts in the first cells of the tables that are sentences of an error."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").split("\n"):
        if line.startswith("| ") and not line.startswith("| what you see"):
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return [text for text in found if " " in text or text in OF_OTHERS]


def code():
    """All code of the package, with texts that go over several lines joined."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "corl_jax").rglob("*.py")]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))


def test_quoted_errors_exist():
    quoted, source = symptoms(), code()
    assert len(quoted) > 25
    missing = [text for text in quoted if text not in OF_OTHERS and text not in source]
    assert not missing, f"no error says this any more: {missing}"


def test_texts_of_others_are_on_the_page():
    assert not OF_OTHERS - set(symptoms())
