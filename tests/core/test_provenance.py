"""What is told of where numbers come from names no folder, user or host of the machine."""

from __future__ import annotations

import json
import subprocess

import pytest

from corl_jax.core import provenance


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("--workdir=/home/me/runs/a", "--workdir=.../a"),
        ("--config=/home/me/x/conf.py:tiny,lora=4", "--config=.../conf.py:tiny,lora=4"),
        ("image_tokenizer/*=/models/J,tiny", "image_tokenizer/*=.../J,tiny"),
        ("--a=~/x/y --b=~bob/q/", "--a=.../y --b=.../q"),
        ('{"a": "/root/b/c", "b": ["/x"]}', '{"a": ".../c", "b": [".../x"]}'),
        ("configs/unified.py runs/a ../b", "configs/unified.py runs/a ../b"),
        ("gs://bucket/run https://host.org/a/b", "gs://bucket/run https://host.org/a/b"),
        ("1/2 a / b language_model/*", "1/2 a / b language_model/*"),
    ],
)
def test_paths_are_reduced_to_their_names(text, reduced):
    assert provenance.reduce_paths(text) == reduced
    assert provenance.reduce_paths(reduced) == reduced


def test_the_commit_of_a_checkout_and_of_an_installation(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, timeout=30)

    file = tmp_path / "corl_jax" / "core" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("a")
    monkeypatch.setattr(provenance, "__file__", str(file))

    class Distribution:
        text = None

        def read_text(self, name):
            return self.text

    monkeypatch.setattr(provenance.metadata, "distribution", lambda name: Distribution())
    assert provenance.commit() is None
    Distribution.text = json.dumps({"url": "a", "vcs_info": {"vcs": "git", "commit_id": "123"}})
    assert provenance.commit() == "123"

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "first")
    head = provenance.commit()
    assert len(head) == 40
    file.write_text("b")
    assert provenance.commit() == f"{head}, changed"
