"""Fuzzes the reader of JSON, and with it the readers of records and of model configs.

``python tests/fuzz/fuzz_json.py``, with atheris. Arguments are those of libFuzzer, for example
``-max_total_time=120``. Anything but a UserError is a finding.
"""

from __future__ import annotations

import json
import sys

import atheris

with atheris.instrument_imports(
    include=["corl_jax.core.checks.json_reader", "corl_jax.core.checks.json_object"]
):
    from corl_jax.core.checks.json_object import JsonObject
    from corl_jax.core.checks.json_reader import parse_json
    from corl_jax.core.errors import UserError

from corl_jax.data.sources.columns import read_fields, resolve_columns
from corl_jax.models.janus.config import TINY
from corl_jax.porting.janus import hf_config, original_config
from corl_jax.porting.janus.layouts import detect_layout

ROW = {"prompt": "a", "real_image": "0.png", "qa_problem": "?", "qa_solution": "1", "qa_type": "OE"}
FILES = [
    json.dumps(content).encode()
    for content in (
        hf_config.write_config(TINY, "float32", image_token_id=5, bos_id=0, eos_id=1, pad_id=2),
        original_config.write_config(TINY, "float32"),
        ROW | {"picture": {"bytes": None, "path": "1.png"}, "id": 3},
    )
]


def fuzz(data: bytes) -> None:
    """Reads a damaged copy of a good file."""
    provider = atheris.FuzzedDataProvider(data)
    content = FILES[provider.ConsumeIntInRange(0, len(FILES) - 1)]
    for _ in range(provider.ConsumeIntInRange(0, 4)):
        position = provider.ConsumeIntInRange(0, len(content))
        piece = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 16))
        content = (
            content[:position] + piece + content[position + provider.ConsumeIntInRange(0, 24) :]
        )

    for read in (_read_row, _read_config):
        try:
            read(content, "x")
        except UserError as error:
            assert "\n" not in str(error)


def _read_row(content: bytes, label: str) -> None:
    row = JsonObject.check(parse_json(content, label), label).entries
    read_fields(row, resolve_columns(row, {}, label), label)


def _read_config(content: bytes, label: str) -> None:
    raw = parse_json(content, label)
    detect_layout(raw, label).read_config(raw, label)  # type: ignore[arg-type]


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
