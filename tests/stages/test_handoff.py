"""From stage to stage: parameters arrive bit for bit, trainable ones move, frozen ones stay."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.handoff import load_params
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.porting.janus.folder import load_params as load_folder
from corl_jax.porting.janus.sidecar_files import TOKENIZER_FILES
from corl_jax.porting.policy_source import open_policy_source
from corl_jax.stages.run import prepare, run
from corl_jax.stages.setup import build_setup


@pytest.fixture(scope="module")
def chain(small_config, rl_config, small_world, tmp_path_factory):
    """A tokenizer, a supervised and an RL stage of two steps each.

    The folder of their work directories, their configs by name, and their parameters by name.
    """
    folder = tmp_path_factory.mktemp("chain")
    configs = {
        "tokenizer": small_config("tokenizer"),
        "sft": small_config("sft", policy=folder / "tokenizer"),
        "rl": rl_config(init_from=str(folder / "sft")),
    }
    params = {}
    with small_world():
        for name, config in configs.items():
            run(config, folder / name)
            # The tokenizer stage saves nothing but the image tokenizer.
            specs = {
                path: spec
                for path, spec in build_setup(config).param_specs.items()
                if name != "tokenizer" or path.startswith("image_tokenizer/")
            }
            params[name] = to_numpy(load_params(folder / name, specs))
    return folder, configs, params


def to_numpy(params):
    return {path: np.asarray(leaf) for path, leaf in params.items()}


def equal_paths(left, right):
    """Paths of ``left`` whose parameters are equal bit for bit in ``right``."""
    return {path for path in left if np.array_equal(left[path], right[path])}


def paths_under(params, prefix):
    return {path for path in params if path.startswith(prefix)}


def test_the_tokenizer_stage_moves_all_it_saves(chain, dot_policy_folder):
    _, configs, params = chain
    cfg = open_policy_source(configs["tokenizer"]["init_from"]).cfg
    initial = load_folder(dot_policy_folder, cfg)
    assert params["tokenizer"].keys() == paths_under(initial, "image_tokenizer/")
    assert equal_paths(params["tokenizer"], initial) == set()


def test_sft_freezes_the_image_tokenizer_and_moves_the_rest(chain, small_world):
    folder, configs, params = chain
    with small_world():
        initial = to_numpy(build_setup(configs["sft"]).load_params())
    assert equal_paths(params["tokenizer"], params["sft"]) == set(params["tokenizer"])
    assert params["sft"].keys() == initial.keys()
    assert equal_paths(params["sft"], initial) == paths_under(initial, "image_tokenizer/")
    assert read_manifest(folder / "sft" / "checkpoints" / "2").stage == "sft"


def test_rl_moves_the_language_model_alone(chain):
    _, _, params = chain
    changed = set(params["rl"]) - equal_paths(params["rl"], params["sft"])
    assert params["rl"].keys() == params["sft"].keys()
    assert changed == paths_under(params["sft"], "language_model/")


def test_every_stage_copies_the_text_tokenizer(chain, dot_policy_folder):
    folder, _, _ = chain
    for name in TOKENIZER_FILES:
        if not (dot_policy_folder / name).exists():
            continue
        expected = (dot_policy_folder / name).read_bytes()
        for stage in ("tokenizer", "sft", "rl"):
            assert (folder / stage / "tokenizer" / name).read_bytes() == expected
    assert (folder / "rl" / "tokenizer" / "tokenizer.json").exists()
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "init_from"), [("sft", "{}"), ("rl", "{}"), ("sft", "language_model/*={}")]
)
def test_a_source_that_lacks_parameters(
    chain, small_config, small_world, tmp_path, name, init_from
):
    """A work directory of the tokenizer stage has no language model."""
    folder, _, _ = chain
    config = small_config(
        "unified" if name == "rl" else name, init_from=init_from.format(folder / "tokenizer")
    )
    message = r"must have the parameter .*; it has image_tokenizer/\* only"
    with small_world(), pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_first_matching_source_provides(chain, small_config, small_world, dot_policy_folder):
    folder, _, params = chain
    init_from = f"image_tokenizer/*={folder / 'tokenizer'}, *={dot_policy_folder}"
    with small_world():
        setup = build_setup(small_config("unified", init_from=init_from))
        loaded = to_numpy(setup.load_params())
    initial = load_folder(dot_policy_folder, setup.cfg)
    for path, leaf in loaded.items():
        expected = params["tokenizer"] if path.startswith("image_tokenizer/") else initial
        np.testing.assert_array_equal(leaf, expected[path])
