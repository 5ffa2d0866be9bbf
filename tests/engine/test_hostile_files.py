"""Manifests, inventories and metrics that are damaged: one line that names file and key."""

from __future__ import annotations

import json
import math
import re

import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, refusal, variants
from hypothesis import given
from hypothesis import strategies as st

from corl_jax.core.renamed_keys import RENAMED_KEYS, rename_keys
from corl_jax.engine.checkpoints.inventory import INVENTORY_FILE, check_inventory
from corl_jax.engine.checkpoints.manifest import MANIFEST_FILE, read_manifest
from corl_jax.engine.workdir import open_workdir
from corl_jax.engine.writers import read_rows, rewind_metrics

MANIFEST = {
    "stage": "rl",
    "step": 3,
    "model": {"decoder": {"width": 32}},
    "params_digest": "00ff",
    "config_digest": "ff00",
    "versions": {"jax": "0.10"},
}


@pytest.fixture
def step(tmp_path):
    """A step folder with a manifest, and a function that writes another one."""
    tmp_path = tmp_path / "3"
    (tmp_path / MANIFEST_FILE).parent.mkdir(parents=True)

    def write(content: object) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / MANIFEST_FILE).write_bytes(data)

    write(MANIFEST)
    return tmp_path, write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "manifest.json must be a JSON object; got a list; use another checkpoint"),
        (b'{"stage": "rl"', "manifest.json is not JSON .*; use another checkpoint"),
        (b"\xff", "manifest.json must be text in UTF-8"),
        ({}, "versions in .*manifest.json must be a JSON object; got nothing"),
        (MANIFEST | {"step": "3"}, "step in .*manifest.json must be a whole number .*; got '3'"),
        (MANIFEST | {"step": -1}, "step in .*manifest.json .*at least 0; got -1"),
        (MANIFEST | {"model": None}, "model in .*manifest.json .*JSON object; got nothing"),
        (MANIFEST | {"versions": {"jax": 1}}, "versions.jax in .*manifest.json .*a text; got 1"),
    ],
)
def test_manifests(step, content, message):
    folder, write = step
    assert read_manifest(folder).step == 3
    write(content)
    assert re.search(message, text := refusal(read_manifest, folder)), text


@SETTINGS
@given(VALUES | variants(MANIFEST))
def test_no_manifest_ends_in_a_traceback(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "3"
    (folder / MANIFEST_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).write_text(json.dumps(content))
    manifest = raises_at_most_a_user_error(read_manifest, folder)
    assert manifest is None or type(manifest.step) is int


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"manifest/manifest.json": "9"}, "files.json is no table of files"),
        ({"none": 1}, "none is missing"),
        ([1], "files.json must be a JSON object; got a list"),
        ({"a" * 300: 1}, "files.json is no table of files"),
        ({"a\0b": 1}, "files.json is no table of files"),
    ],
)
def test_inventories(step, content, message):
    folder, _ = step
    (folder / INVENTORY_FILE).write_text(json.dumps(content))
    assert re.search(message, text := refusal(check_inventory, folder)), text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"step": 1}\n[2]\n{"step": 3}\n', "line 2 of .* must be a JSON object; got a list"),
        (b'{"step": "1"}\n', "step in line 1 of .* must be a whole number .*; got '1'"),
        (b'{"loss": 1}\n', "step in line 1 of .* must be a whole number .*; got nothing"),
        (b'{"step": 1, "loss": "low"}\n', "loss in line 1 of .* must be a number; got 'low'"),
        (b'{"step": 1, "loss": NaN}\n', "loss in line 1 of .* must be a finite number"),
        (b'{"step": 1, "step": 2}\n', "line 1 of .* the key 'step' twice"),
        (b'{"step": 1}\n\xff\n', "line 2 of .* must be text in UTF-8"),
    ],
)
def test_rows_that_are_none(tmp_path, lines, message):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines)
    assert re.search(message, text := refusal(rewind_metrics, path, 9)), text
    assert path.read_bytes() == lines


def test_rows_are_read_up_to_one_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a": null}\n\n{"step": 2, "a": 0.5}\n{"step": 3, "a"')
    rows = [row for _, row in read_rows(path)]
    assert [row["step"] for row in rows] == [1, 2]
    assert math.isnan(rows[0]["a"]) and rows[1]["a"] == 0.5
    rewind_metrics(path, 1)
    assert path.read_bytes() == b'{"step": 1, "a": null}\n'
    # Without a line end, but complete.
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    rewind_metrics(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@SETTINGS
@given(st.lists(VALUES | variants({"step": 1, "loss": 0.5}), max_size=3), st.binary(max_size=9))
def test_no_row_ends_in_a_traceback(tmp_path_factory, rows, rest):
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + rest)
    raises_at_most_a_user_error(lambda: list(read_rows(path)))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"steps": NaN}', b'{"a": 1, "a": 2}'])
def test_the_config_of_a_run(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    text = refusal(open_workdir, tmp_path, {"steps": 1})
    assert "config.json" in text and text.endswith("choose another --workdir") or "UTF-8" in text
    assert (tmp_path / "config.json").read_bytes() == content


def as_blocks(keys):
    """A config with the value 1 under each dotted key that is free."""
    config: dict = {}
    for key in keys:
        *blocks, name = key.split(".")
        block = config
        for part in blocks:
            block = block.setdefault(part, {})
            if not isinstance(block, dict):
                break
        else:
            block[name] = 1
    return config


@SETTINGS
@given(variants(as_blocks([*RENAMED_KEYS, "stage", "train", *RENAMED_KEYS.values()])))
def test_no_config_ends_in_a_traceback(config):
    if isinstance(config, dict):
        for stage in ("rl", "pipeline"):
            assert isinstance(rename_keys(config | {"stage": stage, "train": config}), dict)
