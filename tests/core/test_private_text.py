"""Texts that go to people name no folder, bucket, user or host of the machine."""

from __future__ import annotations

import pytest

from corl_jax.core.private_text import reduce_private


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("--workdir=/home/me/runs/a", "--workdir=.../a"),
        ("--config=/home/me/x/conf.py:tiny,lora=4", "--config=.../conf.py:tiny,lora=4"),
        ("image_tokenizer/*=/models/J,tiny", "image_tokenizer/*=.../J,tiny"),
        ("--a=~/x/y --b=~bob/q/", "--a=.../y --b=.../q"),
        ('{"a": "/root/b/c", "b": ["/x"]}', '{"a": ".../c", "b": [".../x"]}'),
        ("configs/unified.py runs/a", "configs/unified.py runs/a"),
        ("gs://bucket/run https://host.org/a/b", "gs://.../run https://.../b"),
        ("1/2 a / b language_model/*", "1/2 a / b language_model/*"),
    ],
)
def test_paths_are_reduced_to_their_names(text, reduced):
    assert reduce_private(text) == reduced
    assert reduce_private(reduced) == reduced
