"""The site is built without a warning, and is read without another host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from command_lines import ROOT

pytest.importorskip("mkdocs_gen_files", reason="the site needs pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "WARNING" not in process.stderr, process.stderr
    return folder


def test_pages_are_there_and_refer_to_each_other(site):
    front = (site / "index.html").read_text()
    # Sections of the README are part of the front page, with links for the site.
    assert "samples a rollout" in front and 'href="first_hour_tpu.html"' in front
    for page in ("troubleshooting", "reference/config_keys", "reference/api/policy"):
        assert (site / f"{page}.html").is_file(), page
    assert 'id="rl-loss-clip"' in (site / "reference" / "config_keys.html").read_text()
    assert "sample_image_tokens" in (site / "reference" / "api" / "policy.html").read_text()


def test_nothing_is_loaded_from_another_host(site):
    """Links may lead elsewhere; scripts, styles, fonts and pictures may not come from there."""
    loaded = re.compile(
        r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
        r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*href=["']?https?://"""
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?://|@import", style.read_text()), style.name


def test_searching_finds_keys_and_symptoms(site):
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    texts = {entry["location"]: entry["text"] for entry in entries}
    assert any("rl.rollout.guidance_scale" in text for text in texts.values())
    assert any("RESOURCE_EXHAUSTED" in text for text in texts.values())
    # Sources of the tree are found by links; in the index they would hide what explains them.
    assert not [location for location in texts if location.startswith("tree/")]
