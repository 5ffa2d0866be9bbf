"""``corl export --push`` by the real client of the hub, to a small hub on this machine."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from local_hub import TOKEN, Commit, local_hub

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.porting import hub_content, hub_upload

REPO = "alice/janus-shapes"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running ``LocalHub``."""
    with local_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def push(dot_policy_folder, capsys):
    """A function that exports and uploads: its exit code, stdout and stderr."""

    def run(*flags, repo=REPO, policy=dot_policy_folder):
        code = main(["export", "--policy", str(policy), "--push", repo, *map(str, flags)])
        return code, *capsys.readouterr()

    return run


def test_what_arrives_is_what_was_exported(hub, push, dot_policy_folder, tmp_path):
    code, out, _ = push("--out", tmp_path / "out", "--private", "--license", "mit")
    commits = hub.repos[REPO].branches["main"]
    assert code == 0 and out.strip() == f"{hub.address}/{REPO}/commit/{commits[-1].oid}"
    assert hub.repos[REPO].private and len(commits) == 2

    exported = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    arrived = {**hub.files(REPO)}
    assert arrived.pop(".gitattributes") and arrived == exported
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json"} <= exported.keys()
    assert f'Policy.load("{REPO}")' in exported["README.md"].decode()

    # By its name, through the client's cache, it is the policy that was exported.
    policy = Policy.load(REPO, dtype="float32")
    assert f"GET /{REPO}/resolve/{commits[-1].oid}/model.safetensors" in hub.requests
    for path, leaf in Policy.load(dot_policy_folder, dtype="float32").params.items():
        np.testing.assert_array_equal(policy.params[path], leaf, err_msg=path)


def test_branches_messages_and_a_second_upload(hub, push, tmp_path):
    hub.add(REPO, {"LICENSE": b"mine"})
    flags = ("--revision", "step-200", "--message", "After 200 steps")
    assert push(*flags)[0] == 0
    branch = hub.repos[REPO].branches["step-200"]
    assert branch[-1].message == "After 200 steps" and "model.safetensors" in branch[-1].files
    assert hub.files(REPO).keys() == {".gitattributes", "LICENSE"}

    # The branch is full now, and main is not.
    code, _, error = push(*flags)
    assert code == 2 and "README.md on branch 'step-200', which would be replaced" in error
    assert push()[0] == 0 and "LICENSE" in hub.files(REPO)

    # With --overwrite the same bytes are not sent again, and files of an older export go.
    stale = {"model-00001-of-00009.safetensors": b"old", "notes.txt": b"mine"}
    hub.repos[REPO].branches["main"][-1].files.update(stale)
    hub.requests.clear()
    code, out, error = push("--overwrite", "--license", "mit")
    assert code == 0, error
    assert not [request for request in hub.requests if request.startswith("PUT")]
    files = hub.files(REPO)
    assert "model-00001-of-00009.safetensors" not in files and files["notes.txt"] == b"mine"
    assert b"license: mit\n" in files["README.md"]


def test_an_upload_that_broke_off_goes_on(hub, push):
    hub.fail = "POST .*/commit/"
    code, _, error = push()
    *_, line = error.splitlines()
    assert code == 2 and line.startswith(
        "error: 'alice/janus-shapes' could not be uploaded (the quota"
    )
    assert "hf upload alice/janus-shapes FOLDER" in line
    assert hub.objects and hub.files(REPO).keys() == {".gitattributes"}

    hub.fail = "never"
    hub.requests.clear()
    assert push()[0] == 0
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_somebody_else_commits_in_the_meantime(hub, tmp_path):
    hub.add(REPO, {})
    upload = hub_upload.Upload(REPO, "main", False, "mine", False)
    destination = hub_upload.check_destination(upload)
    hub.repos[REPO].branches["main"].append(Commit({}, "other"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="A commit has happened since"):
        hub_upload.upload_folder(destination, tmp_path)


REFUSED = {
    "no slash": ({}, ["janus"], "--push must be OWNER/NAME"),
    "malformed": ({}, ["alice/ja nus"], "--push must be OWNER/NAME"),
    "of another": ({}, ["bob/janus"], "alice/NAME or shapes-lab/NAME; got 'bob/janus'"),
    "no branch": ({}, [REPO, "--revision", "a..b"], "--revision must be the name of a branch"),
    "no message": ({}, [REPO, "--message", " "], "--message must not be empty"),
    "read": ({"role": "read"}, [REPO], "may only read; .* hf auth login"),
    "no login": ({"HF_TOKEN": ""}, [REPO], "needs a login .* hf auth login"),
    "expired": ({"HF_TOKEN": TOKEN + "x"}, [REPO], "does not accept the login; .* hf auth login"),
    "down": ({"fail": "whoami"}, [REPO], "cannot be reached .*quota"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_refused_before_anything_is_written(hub, push, monkeypatch, tmp_path, case):
    setting, (repo, *flags), message = REFUSED[case]
    for name, value in setting.items():
        if name.startswith("HF_"):
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.setattr(hub, name, value)
    code, _, error = push("--out", tmp_path / "out", *flags, repo=repo)
    assert code == 2 and re.search(message, error) and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists() and not hub.repos
    assert not [request for request in hub.requests if not request.startswith("GET")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs --out FOLDER or --push OWNER/NAME"),
        (["--out", "x", "--private"], "--private goes with --push"),
        (["--out", "x", "--message", "m"], "--message goes with --push"),
        (["--out", "x", "--license", "My Own"], "--license must be an id"),
        (["--out", "x", "--no-card", "--license", "mit"], "--license is about the card"),
        (["--out", "x", "--adapters", "--layout", "original"], "--adapters are written for"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, capsys):
    assert main(["export", "--policy", "tiny", *flags]) == 2
    assert message in capsys.readouterr().err


SECRETS = {
    "token": "see hf_" + "a" * 34,
    "home": "/home/bob/models/janus",
    "mac": "/Users/bob/x",
    "data": "made from /data/secret and more",
    "login": f"token={TOKEN}",
    "host": "made on quiet-otter-7 at night",
}


@pytest.mark.parametrize("case", list(SECRETS))
def test_nothing_private_goes_up(hub, push, monkeypatch, dot_policy_folder, tmp_path, case):
    policy = tmp_path / "policy"
    policy.mkdir()
    for file in dot_policy_folder.iterdir():
        if file.is_file():
            (policy / file.name).write_bytes(file.read_bytes())
    entries = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(entries | {"note": SECRETS[case]}))
    monkeypatch.setattr("socket.gethostname", lambda: "quiet-otter-7.example.org")

    code, _, error = push(policy=policy)
    assert code == 2 and "config.json must have nothing private in it" in error
    assert SECRETS[case] not in error and not hub.repos


def test_other_files_do_not_go_up(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    hub_content.check_content(tmp_path, REPO)
    (tmp_path / "id_rsa").write_text("x")
    with pytest.raises(UserError, match="only the files of an export are uploaded; got 'id_rsa'"):
        hub_content.check_content(tmp_path, REPO)
