"""From stage to stage: what is handed on arrives bit for bit, what is frozen stays, what is trained moves."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.handoff import load_params
from corl_jax.engine.manifest import read_manifest
from corl_jax.porting.janus.folder import load_params as load_folder
from corl_jax.porting.janus.sidecar_files import TOKENIZER_FILES
from corl_jax.stages.run import prepare, run
from corl_jax.stages.setup import build_setup


@pytest.fixture(scope="module")
def chain(small_config, rl_config, small_world, tmp_path_factory):
    """Work directories of a tokenizer, a supervised and a reinforcement stage, two steps each, and their parameters."""
    home = tmp_path_factory.mktemp("chain")
    configs = {
        "tokenizer": small_config("tokenizer"),
        "sft": small_config("sft", policy=home / "tokenizer"),
        "rl": rl_config(init_from=str(home / "sft")),
    }
    params = {}
    with small_world():
        for name, config in configs.items():
            run(config, home / name)
            structs = build_setup(config).structs
            only = {
                p: s
                for p, s in structs.items()
                if name != "tokenizer" or p.startswith("image_tokenizer/")
            }
            params[name] = {
                path: np.asarray(leaf) for path, leaf in load_params(home / name, only).items()
            }
    return home, configs, params


def split(left, right):
    """Paths that are equal bit for bit in both, and the others."""
    equal = {path for path in left if np.array_equal(left[path], right[path])}
    return equal, set(left) - equal


def under(paths, *parts):
    return {path for path in paths if path.startswith(parts)}


def test_the_tokenizer_stage_moves_all_it_saves(chain, dot_policy_folder):
    home, configs, params = chain
    base = load_folder(dot_policy_folder, assemble_cfg(configs["tokenizer"]))
    assert params["tokenizer"].keys() == under(base, "image_tokenizer/")
    assert split(params["tokenizer"], base)[0] == set()


def assemble_cfg(config):
    from corl_jax.porting.policy_source import open_source

    return open_source(config["init_from"]).cfg


def test_sft_keeps_the_image_tokenizer_and_moves_the_rest(chain, small_world):
    home, configs, params = chain
    with small_world():
        start = {
            path: np.asarray(leaf) for path, leaf in build_setup(configs["sft"]).params().items()
        }
    assert all(
        np.array_equal(params["sft"][path], leaf) for path, leaf in params["tokenizer"].items()
    )
    equal, moved = split(params["sft"], start)
    assert equal == under(start, "image_tokenizer/") and moved == set(start) - equal
    assert read_manifest(home / "sft" / "checkpoints" / "2").stage == "sft"


def test_rl_moves_the_language_model_alone(chain):
    _, _, params = chain
    equal, moved = split(params["rl"], params["sft"])
    assert moved == under(params["sft"], "language_model/") and equal == set(params["sft"]) - moved


def test_the_text_tokenizer_travels_along(chain, dot_policy_folder):
    home, _, _ = chain
    for name in TOKENIZER_FILES:
        if (dot_policy_folder / name).exists():
            for stage in ("tokenizer", "sft", "rl"):
                assert (home / stage / "tokenizer" / name).read_bytes() == (
                    dot_policy_folder / name
                ).read_bytes()
    assert (home / "rl" / "tokenizer" / "tokenizer.json").exists()
    assert not list(home.rglob("*.part"))


@pytest.mark.parametrize(
    ("name", "how"), [("sft", "{}"), ("rl", "{}"), ("sft", "language_model/*={}")]
)
def test_part_of_a_model_is_asked_for_what_it_holds(
    chain, small_config, small_world, tmp_path, name, how
):
    home, _, _ = chain
    config = small_config(
        "unified" if name == "rl" else name, init_from=how.format(home / "tokenizer")
    )
    with (
        small_world(),
        pytest.raises(UserError, match=r"has no parameter .* holds image_tokenizer/\* alone"),
    ):
        prepare(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_first_matching_source_wins(chain, small_config, small_world, dot_policy_folder):
    home, _, params = chain
    both = f"image_tokenizer/*={home / 'tokenizer'}, *={dot_policy_folder}"
    with small_world():
        parts = build_setup(small_config("unified", init_from=both))
        got = {path: np.asarray(leaf) for path, leaf in parts.params().items()}
    base = load_folder(dot_policy_folder, parts.cfg)
    for path, leaf in got.items():
        wanted = params["tokenizer"] if path.startswith("image_tokenizer/") else base
        np.testing.assert_array_equal(leaf, wanted[path])
