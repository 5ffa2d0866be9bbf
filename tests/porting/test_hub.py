"""Hub ids are distinguished from folders, and their models read from the cache or downloaded."""

from __future__ import annotations

import types

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from corl_jax.core.errors import UserError
from corl_jax.porting import hub
from corl_jax.porting.policy_source import open_policy_source, tiny_folder
from corl_jax.reward_models.clip.weights import CLIP
from corl_jax.reward_models.lpips.weights import LPIPS

ID = "someone/Janus-Small"


class FakeHub:
    """Stands in for ``huggingface_hub``; remembers which patterns of files were downloaded."""

    def __init__(self, monkeypatch, files=(), cached=None, error=None):
        self.files = files
        self.cached = cached
        self.error = error
        self.patterns = None
        for name in ("model_info", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))

    def model_info(self, name):
        assert name == ID
        if self.error:
            raise self.error
        return types.SimpleNamespace(
            siblings=[types.SimpleNamespace(rfilename=file) for file in self.files]
        )

    def snapshot_download(self, name, local_files_only=False, allow_patterns=None):
        assert name == ID
        if local_files_only and self.cached is None:
            raise LocalEntryNotFoundError("not there")
        self.patterns = allow_patterns
        return str(self.cached or tiny_folder())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deepseek-ai/Janus-Pro-1B", True),
        ("runs/unified", True),
        ("tiny", False),
        ("./a/b", False),
        ("a/b/c", False),
    ],
)
def test_form_of_a_hub_id(name, expected):
    assert hub.is_id(name) == expected


def test_a_cached_model_needs_no_network(monkeypatch):
    FakeHub(monkeypatch, cached=tiny_folder(), error=RuntimeError("the network was used"))
    assert open_policy_source(ID).janus_folder.path == tiny_folder()


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (["config.json", "pytorch_model.bin", "model.safetensors"], "*.safetensors"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], "pytorch_model*.bin"),
    ],
)
def test_only_one_format_of_weights_is_downloaded(monkeypatch, files, pattern):
    fake = FakeHub(monkeypatch, files)
    assert open_policy_source(ID).janus_folder.path == tiny_folder()
    assert fake.patterns[-1] == pattern
    assert "*.json" in fake.patterns
    assert len(fake.patterns) == len(hub.SMALL_FILES) + 1


def test_one_of_several_copies_of_the_weights_is_downloaded(monkeypatch):
    """The folder of ViT-H-14 has the same weights four times."""
    files = [
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors",
        "pytorch_model.bin",
        "model.safetensors",
    ]
    fake = FakeHub(monkeypatch, files=["config.json", "open_clip_config.json", *files])
    hub.download(ID, CLIP.weight_files)
    assert fake.patterns == [*hub.SMALL_FILES, "model*.safetensors"]
    fake.files = ["open_clip_config.json", *files[:2]]
    hub.download(ID, CLIP.weight_files)
    assert fake.patterns == [*hub.SMALL_FILES, "open_clip*.safetensors"]


def test_a_cache_without_weights_is_not_enough(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    FakeHub(monkeypatch, cached=tmp_path, error=OSError("network is down"))
    with pytest.raises(UserError, match="network is down"):
        open_policy_source(ID)


@pytest.mark.parametrize(
    ("spec", "files"),
    [
        (CLIP, ["open_clip_config.json", "open_clip_model.safetensors"]),
        (LPIPS, ["vgg16-397923af.pth"]),
    ],
)
def test_a_cached_model_without_a_config_json_needs_no_network(monkeypatch, tmp_path, spec, files):
    FakeHub(monkeypatch, cached=tmp_path, error=OSError("network is down"))
    for file in files[:-1]:
        (tmp_path / file).write_text("{}", "utf-8")
    with pytest.raises(UserError, match="network is down"):
        hub.download(ID, spec.weight_files, spec.config_files)
    (tmp_path / files[-1]).touch()
    assert hub.download(ID, spec.weight_files, spec.config_files) == tmp_path


def test_no_network(monkeypatch):
    FakeHub(monkeypatch, error=OSError("name or service not known\nmore"))
    with pytest.raises(
        UserError, match=f"no folder '{ID}', .* cannot be reached .name .* run 'hf download {ID}"
    ) as error:
        open_policy_source(ID)
    assert "\n" not in str(error.value)


def test_no_such_model(monkeypatch):
    response = types.SimpleNamespace(headers={}, request=None, status_code=404)
    FakeHub(monkeypatch, error=RepositoryNotFoundError("404", response=response))
    with pytest.raises(UserError, match="no such model on the Hugging Face hub .*; check the name"):
        open_policy_source(ID)


def test_neither_folder_nor_hub_id():
    with pytest.raises(
        UserError,
        match="policy 'a/b/c' is not a folder; choose 'tiny', a Hugging Face folder or hub id",
    ):
        open_policy_source("a/b/c")
