"""What is told of where numbers come from."""

from __future__ import annotations

import json
import subprocess

from corl_jax.core import provenance


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
