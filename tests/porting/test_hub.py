"""Hub ids: told from folders, found in the cache, downloaded with the right files, and refused with the way out."""

from __future__ import annotations

import types

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from corl_jax.core.errors import UserError
from corl_jax.porting import hub
from corl_jax.porting.policy_source import open_source, tiny_folder
from corl_jax.reward_models.clip.weights import CLIP

ID = "someone/Janus-Small"


class FakeHub:
    """The three calls that we make of the hub; remembers what was downloaded."""

    def __init__(self, monkeypatch, files=(), cached=None, error=None):
        self.files, self.cached, self.error, self.patterns = files, cached, error, None
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
    ("name", "yes"),
    [
        ("deepseek-ai/Janus-Pro-1B", True),
        ("runs/unified", True),
        ("tiny", False),
        ("./a/b", False),
        ("a/b/c", False),
    ],
)
def test_what_looks_like_an_id(name, yes):
    assert hub.is_id(name) == yes


def test_a_cached_model_needs_no_network(monkeypatch):
    FakeHub(monkeypatch, cached=tiny_folder(), error=RuntimeError("asked the network"))
    assert open_source(ID).folder.path == tiny_folder()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["config.json", "pytorch_model.bin", "model.safetensors"], "*.safetensors"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], "pytorch_model*.bin"),
    ],
)
def test_only_one_kind_of_weights_is_downloaded(monkeypatch, files, kind):
    fake = FakeHub(monkeypatch, files)
    assert open_source(ID).folder.path == tiny_folder()
    assert (
        fake.patterns[-1] == kind
        and "*.json" in fake.patterns
        and len(fake.patterns) == len(hub.SMALL) + 1
    )


def test_a_hub_folder_of_two_layouts_is_fetched_once(monkeypatch):
    """ViT-H-14's holds the same weights four times."""
    files = [
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors",
        "pytorch_model.bin",
        "model.safetensors",
    ]
    fake = FakeHub(monkeypatch, files=["config.json", "open_clip_config.json", *files])
    hub.download(ID, CLIP.weights)
    assert fake.patterns == [*hub.SMALL, "model*.safetensors"]
    fake.files = ["open_clip_config.json", *files[:2]]
    hub.download(ID, CLIP.weights)
    assert fake.patterns == [*hub.SMALL, "open_clip*.safetensors"]


def test_a_cache_without_weights_is_not_enough(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    FakeHub(monkeypatch, cached=tmp_path, error=OSError("network is down"))
    with pytest.raises(UserError, match="network is down"):
        open_source(ID)


def test_no_network(monkeypatch):
    FakeHub(monkeypatch, error=OSError("name or service not known\nmore"))
    with pytest.raises(
        UserError, match=f"no folder '{ID}', .* cannot be reached .name .* run 'hf download {ID}"
    ) as error:
        open_source(ID)
    assert "\n" not in str(error.value)


def test_no_such_model(monkeypatch):
    response = types.SimpleNamespace(headers={}, request=None, status_code=404)
    FakeHub(monkeypatch, error=RepositoryNotFoundError("404", response=response))
    with pytest.raises(UserError, match="no such model on the Hugging Face hub .*; check the name"):
        open_source(ID)


def test_a_name_that_is_nothing():
    with pytest.raises(
        UserError,
        match="policy 'a/b/c' is no folder; expected 'tiny', a Hugging Face folder or hub id",
    ):
        open_source("a/b/c")
