"""Copies of a policy are made from files of its folder, not from those that a link leads to."""

from __future__ import annotations

import pytest
from hostile_json import refusal

from corl_jax.models.janus.config import TINY
from corl_jax.porting.policy_source import PolicySource, tiny_folder


@pytest.fixture
def source(tmp_path):
    """A work directory with a tokenizer and two checkpoints; beside it there is a secret."""
    workdir = tmp_path / "run"
    for step in ("1", "2"):
        (workdir / "checkpoints" / step / "state").mkdir(parents=True)
        (workdir / "checkpoints" / step / "state" / "array").write_text("numbers")
    (workdir / "tokenizer").mkdir()
    (workdir / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    return PolicySource("run", TINY, workdir / "tokenizer", workdir=workdir)


def test_a_run_of_plain_files(source):
    source.check_links()
    # Links within the run, and those of checkpoints that are not read, do no harm.
    (source.workdir / "tokenizer" / "a").symlink_to(source.workdir / "tokenizer" / "tokenizer.json")
    (source.workdir / "checkpoints" / "1" / "a").symlink_to(source.workdir.parent / "secret")
    source.check_links()


@pytest.mark.parametrize("name", ["tokenizer/chat_template.json", "checkpoints/2/state/array2"])
def test_links_out_of_the_run(source, name):
    (source.workdir / name).symlink_to(source.workdir.parent / "secret")
    assert "got a link that leads out of that folder; put a copy" in refusal(source.check_links)


@pytest.mark.parametrize("name", ["tokenizer", "checkpoints"])
def test_folders_that_are_links_out_of_the_run(source, name):
    path = source.workdir / name
    path.rename(source.workdir.parent / "moved")
    path.symlink_to(source.workdir.parent / "moved")
    assert "got a link that leads out of that folder" in refusal(source.check_links)


def test_a_cache_of_the_hub_consists_of_links(tmp_path):
    (tmp_path / "config.json").symlink_to(tiny_folder() / "config.json")
    PolicySource("hub", TINY, tmp_path).check_links()
