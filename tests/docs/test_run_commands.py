"""Commands and Python of the README and the docs, run for real at tiny size."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from command_lines import EVERY_LINE, ROOT, blocks
from PIL import Image
from running import RUN, RUN_ELSEWHERE

from corl_jax.commands import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dot_policy_folder):
    """A folder as a reader has it: configs, photographs with captions, records."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "dot").symlink_to(dot_policy_folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    photos = folder / "data" / "photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text("a red circle")

    record = {
        "prompt": "a red circle",
        "real_image": "data/photos/0.png",
        "picture": "data/photos/1.png",
        "qa_problem": "what colour is the circle?",
        "qa_solution": "red",
        "qa_type": "OE",
        "completion": "<think>it is</think><answer>red</answer>",
    }
    (folder / "records.jsonl").write_text(json.dumps(record))
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(folder, monkeypatch):
    """Commands run in the reader's folder."""
    monkeypatch.chdir(folder)


def words_of(text):
    """The words of a command with the changes that make it quick."""
    run = RUN[text]
    return [run.replace.get(word, word) for word in shlex.split(text)]


@pytest.mark.parametrize("text", RUN, ids=lambda text: " ".join(text.split()[:4]))
def test_a_command_of_the_docs(text, folder, capsys):
    words, run = words_of(text), RUN[text]
    code = cli.main(words[1:])
    output = capsys.readouterr()
    assert code == 0, output.err[-2000:]
    assert run.prints in output.out
    if run.makes:
        assert (folder / run.makes).exists(), f"{text} has not made {run.makes}"


@pytest.mark.parametrize("text", RUN_ELSEWHERE)
def test_the_test_that_runs_a_command_exists(text):
    path, _, name = RUN_ELSEWHERE[text].partition("::")
    source = (ROOT / path).read_text()
    assert f"def {name or 'test_'}" in source
    # It calls the same program: with the name of the command, or the config.
    words = text.split()
    name = re.search(r"configs/(\w+)", text)[1] if words[0] == "python" else words[1]
    is_named = re.search(rf"\b{name}\b", source) is not None
    # Or it takes the command from the page itself.
    assert is_named or "DOCS.read_text()" in source, f"{path} does not run {name}"


def python_blocks(page):
    return [block.text for block in blocks(page) if block.language == "python"]


def test_the_python_of_the_readme(capsys):
    (code,) = python_blocks("README.md")
    values: dict[str, object] = {}
    exec(code, values)
    assert values["images"].shape == (1, 4, 48, 48, 3)
    assert capsys.readouterr().out.startswith("[")


PYTHON_ELSEWHERE = {
    "docs/export.md": "tests/stages/test_export.py runs the same calls of transformers",
    "docs/publishing.md": "tests/porting/test_adapters.py loads adapters in the same way",
    "docs/rewards.md": "tests/rewards/test_custom.py runs every block",
    "docs/suites_harness.md": "needs VLMEvalKit",
}
"""Pages whose Python is not run here, and why."""


@pytest.mark.parametrize("page", sorted({line.place.partition(":")[0] for line in EVERY_LINE}))
def test_all_python_is_run_or_has_a_reason(page):
    if python_blocks(page) and page != "README.md":
        assert page in PYTHON_ELSEWHERE, f"{page} has Python that nothing runs"
