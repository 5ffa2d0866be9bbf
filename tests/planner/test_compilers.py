"""Compilers of another release than JAX, and GPUs as the compiler is told of them."""

from __future__ import annotations

import importlib.metadata
import re

import jax
import pytest

from corl_jax.core.errors import UserError
from corl_jax.planner import compilers
from corl_jax.planner.calls import compile_lowered
from corl_jax.planner.chips import CHIPS, pool_share
from corl_jax.planner.gpu_targets import GPU_TARGETS

REQUIRED = [
    'libtpu==0.0.42.*; extra == "tpu"',
    'jax-cuda12-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda12"',
    'jax-cuda13-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda13"',
    "jax-cuda12-pjrt==0.10.2",
    "jax-cuda13-pjrt==0.10.2",
    "numpy>=2",
]


@pytest.fixture
def install(monkeypatch):
    """Makes packages look installed in these releases, with a JAX that requires ``REQUIRED``."""

    def install_packages(**versions):
        named = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name):
            if name == "jax":
                return "0.10.2"
            if name not in named:
                raise importlib.metadata.PackageNotFoundError(name)
            return named[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)

    return install_packages


def test_a_compiler_of_the_release_that_jax_requires_is_taken(install):
    install(libtpu="0.0.42.1", jax_cuda13_plugin="0.10.2", jax_cuda13_pjrt="0.10.2")
    compilers.check_libtpu("v5e:2x2")
    assert compilers.cuda_major_version("h100:1") == 13
    install(jax_cuda12_plugin="0.10.2", jax_cuda12_pjrt="0.10.2")
    assert compilers.cuda_major_version("h100:1") == 12

    # Before JAX is imported, what is not installed is no error yet.
    for topology in ("h100:1", "v5e:1x1", "nothing"):
        compilers.check_releases(topology)
    install()
    compilers.check_releases("h100:1")
    compilers.check_releases("v5e:1x1")


@pytest.mark.parametrize(
    ("packages", "check", "message"),
    [
        ({}, "tpu", r"needs libtpu .* pip install 'corl_jax\[tpu\]'"),
        ({}, "cuda", r"needs JAX's plug-in of CUDA .* pip install 'corl_jax\[cuda\]'"),
        (
            {"libtpu": "0.0.50"},
            "tpu",
            r"libtpu must be ==0.0.42.\* for jax 0.10.2; got 0.0.50. pip install 'jax\[tpu\]==0.10.2'",
        ),
        (
            {"jax_cuda13_plugin": "0.11.2"},
            "cuda",
            r"jax-cuda13-plugin must be .* got 0.11.2. pip install 'jax\[cuda13\]==0.10.2'",
        ),
        ({"jax_cuda12_plugin": "0.9.0"}, "cuda", r"pip install 'jax\[cuda12\]==0.10.2'"),
        (
            {"jax_cuda13_plugin": "0.10.2", "jax_cuda13_pjrt": "0.10.1"},
            "cuda",
            r"jax-cuda13-pjrt must be ==0.10.2 for jax-cuda13-plugin 0.10.2; got 0.10.1",
        ),
    ],
)
def test_another_release_is_one_line_that_says_what_to_install(install, packages, check, message):
    install(**packages)
    with pytest.raises(UserError) as error:
        if check == "tpu":
            compilers.check_libtpu("v5e:2x2")
        else:
            compilers.cuda_major_version("h100:1")
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)

    # A compiler that is there is held against JAX before JAX is imported.
    if packages:
        with pytest.raises(UserError, match="must be"):
            compilers.check_releases({"tpu": "v5e:2x2", "cuda": "h100:1"}[check])


def test_the_installed_jax_names_its_compilers():
    """What the check reads is there in the release of JAX that is installed."""
    lines = importlib.metadata.requires("jax")
    for package in ("libtpu", *compilers.CUDA_PLUGINS):
        assert any(line.startswith(package) and "extra" in line for line in lines)


@pytest.mark.parametrize("name", GPU_TARGETS)
def test_a_target_has_every_figure_and_is_a_chip(name):
    target, chip = GPU_TARGETS[name], CHIPS[name]
    text = target.text(cuda_major=13)
    assert text.count("{") == text.count("}") == 4 and "runtime_version { major: 13" in text
    assert f"device_memory_size: {target.memory_bytes}\n" in text
    assert f"core_count: {target.cores}\n" in text
    assert chip.hbm_gib == target.memory_bytes / 2**30
    assert chip.node_link_gb_s <= chip.link_gb_s


def test_the_pool_is_the_share_that_jax_takes(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
        assert pool_share() == 0.75
        monkeypatch.setenv(name, ".95")
        assert pool_share() == 0.95
        for text in ("95", "0", "1.5", "much"):
            monkeypatch.setenv(name, text)
            with pytest.raises(UserError, match=f"{name} must be a share of at most 1"):
                pool_share()
        monkeypatch.delenv(name)


class Lowered:
    """A program that the compiler fails on with these messages, one after the other."""

    def __init__(self, *messages):
        self.messages, self.options = list(messages), []

    def compile(self, compiler_options):
        self.options.append(compiler_options)
        if self.messages:
            raise jax.errors.JaxRuntimeError(self.messages.pop(0))
        return "program"


def test_options_are_tried_in_turn_after_internal_errors_alone():
    lines: list[str] = []
    lowered = Lowered("INTERNAL: no tile sizes")
    assert compile_lowered(lowered, ({"a": 1}, {"b": 2}), lines.append) == "program"
    assert lowered.options == [{"a": 1}, {"b": 2}]
    assert "{'b': 2}" in lines[0] and "no tile sizes" in lines[0] and len(lines) == 1

    # A program that is too large stays too large, and the last options are the last.
    for messages, tries in (("RESOURCE_EXHAUSTED", 1), ("INTERNAL one", 2)):
        failing = Lowered(messages, "INTERNAL two")
        with pytest.raises(jax.errors.JaxRuntimeError):
            compile_lowered(failing, ({"a": 1}, {"b": 2}), lines.append)
        assert len(failing.options) == tries
