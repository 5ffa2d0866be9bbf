"""What tests of suites share."""

from __future__ import annotations

import dataclasses

import pytest
from helpers import dot_config, write_byte_tokenizer, write_untrained_policy


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory):
    """An untrained policy that reads any text and has room for long prompts."""
    cfg = dot_config()
    decoder = dataclasses.replace(cfg.decoder, vocab_size=272, max_length=1024)
    folder = tmp_path_factory.mktemp("policies") / "bytes"
    return write_untrained_policy(
        dataclasses.replace(cfg, decoder=decoder), folder, 0, write_byte_tokenizer
    )
