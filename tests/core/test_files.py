"""Writes of files: complete or absent, and one line where the system refuses."""

from __future__ import annotations

import errno
import pathlib

import pytest

from corl_jax.core import files
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_refused_write_keeps_what_was_there(tmp_path, monkeypatch, code):
    path = tmp_path / "eval.json"
    write_json(path, {"before": 1})

    def refuse(self, data):
        self.touch()  # half a file is there already
        raise OSError(code, "refused")

    monkeypatch.setattr(pathlib.Path, "write_bytes", refuse)
    message = f"{path} cannot be written .OSError: .Errno {code}.*free some space"
    with pytest.raises(UserError, match=message) as error:
        write_json(path, {"after": 2})
    assert "\n" not in str(error.value)
    assert path.read_text() == '{\n  "before": 1\n}\n' and list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "a", []
    sync = files.sync

    def note(target):
        synced.append((target.name, path.exists()))
        sync(target)

    monkeypatch.setattr(files, "sync", note)
    write_atomically(path, "x")
    assert synced == [("a.part", False), (tmp_path.name, True)]


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "eval.json", {})
