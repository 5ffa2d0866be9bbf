"""The CPU is chosen where there is nothing else, and nothing is chosen for a user who has chosen."""

from __future__ import annotations

import sys

import pytest

from corl_jax.core import accelerators
from corl_jax.core.accelerators import has_accelerator, leave_out_missing_accelerators


@pytest.fixture
def plugins(monkeypatch):
    """Names of JAX's plug-ins that are installed; a test adds to them."""
    names: list[str] = []

    def entry_points(group):
        assert group == "jax_plugins"
        return [type("Entry", (), {"name": name}) for name in names]

    monkeypatch.setattr(accelerators.metadata, "entry_points", entry_points)
    return names


def test_files_of_a_driver_or_another_plug_in(plugins, tmp_path):
    patterns = (str(tmp_path / "accel*"), str(tmp_path / "vfio" / "[0-9]*"))
    assert not has_accelerator(patterns)
    plugins.append("xla_cuda13")
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").write_text("")  # there on any machine with the module
    assert not has_accelerator(patterns)
    (tmp_path / "vfio" / "0").write_text("")
    assert has_accelerator(patterns)
    plugins.append("metal")
    assert has_accelerator(())


@pytest.mark.skipif(sys.platform != "linux", reason="device files are those of Linux")
@pytest.mark.parametrize(
    ("environment", "is_there", "chosen"),
    [
        ({}, False, "cpu"),
        ({}, True, None),
        ({"JAX_PLATFORMS": ""}, False, ""),
        ({"JAX_PLATFORMS": "tpu"}, False, "tpu"),
    ],
)
def test_only_what_is_missing_is_left_out(monkeypatch, environment, is_there, chosen):
    monkeypatch.setattr(accelerators, "has_accelerator", lambda: is_there)
    leave_out_missing_accelerators(environment, modules={})
    assert environment.get("JAX_PLATFORMS") == chosen
