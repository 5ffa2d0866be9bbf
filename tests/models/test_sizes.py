"""Full sizes without memory: shapes, parameter counts and logical axes of the released models."""

import math

import jax.numpy as jnp
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import DEFAULT_RULES, Sharder, make_mesh
from corl_jax.core.trees import count, flatten_abstract
from corl_jax.models.janus.config import (
    JANUS_PRO_1B,
    JANUS_PRO_7B,
    TINY,
    DecoderConfig,
    ImageTokenizerConfig,
    JanusConfig,
    VisionConfig,
    named_size,
)
from corl_jax.models.janus.model import abstract, logical_axes

SIZES = {"tiny": TINY, "janus_pro_1b": JANUS_PRO_1B, "janus_pro_7b": JANUS_PRO_7B}


@pytest.fixture(scope="module")
def models():
    return {name: abstract(cfg) for name, cfg in SIZES.items()}


def count_module(params, module):
    return count({path: leaf for path, leaf in params.items() if path.split("/")[0] == module})


@pytest.mark.parametrize(("name", "total", "modules"), [
    ("janus_pro_1b", 2_076_636_811, {"language_model": 1_652_656_128, "aligner": 6_295_552,
                                     "gen_aligner": 4_214_784,
                                     "gen_head": 37_767_168, "gen_embed": 131_072,
                                     "vision_model": 316_283_904 - 12_595_200,
                                     "image_tokenizer": 71_948_939 - 65_536}),
    ("janus_pro_7b", 7_407_773_323, {"language_model": 6_910_365_696, "aligner": 20_979_712,
                                     "gen_aligner": 16_818_176, "gen_head": 83_906_560}),
])  # fmt: skip
def test_parameter_counts_of_the_released_models(models, name, total, modules):
    params = flatten_abstract(models[name])
    assert count(params) == total
    assert {module: count_module(params, module) for module in modules} == modules


@pytest.mark.parametrize("name", list(SIZES))
def test_every_parameter_has_logical_axes_of_its_rank_and_every_axis_a_rule(models, name):
    params, axes = flatten_abstract(models[name]), logical_axes(models[name])
    assert axes.keys() == params.keys()
    for path, names in axes.items():
        assert len(names) == len(params[path].shape), path
        assert all(axis is None or axis in DEFAULT_RULES for axis in names), (path, names)
        assert (names[0] == "layers") == ("/layers/" in path), path


@pytest.mark.parametrize("name", list(SIZES))
def test_every_parameter_fits_a_mesh_of_two_by_two_by_two(models, name):
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    axes, params = logical_axes(models[name]), flatten_abstract(models[name])
    largest_replicated = 0
    for path, leaf in params.items():
        shard = sharder.checked_sharding(leaf.shape, axes[path], path).shard_shape(leaf.shape)
        if math.prod(shard) == math.prod(leaf.shape):
            largest_replicated = max(largest_replicated, math.prod(shard))
    assert largest_replicated < 0.05 * count(params)


def test_parameters_are_float32_and_compute_dtype_changes_no_shape(models):
    params = flatten_abstract(models["tiny"])
    bfloat16_params = flatten_abstract(abstract(TINY, dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in params.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in bfloat16_params.items()
    }


def test_named_sizes():
    assert named_size("tiny") is TINY
    assert JANUS_PRO_1B.image_tokens == 576 and JANUS_PRO_1B.image_grid == 24
    assert JANUS_PRO_1B.image_tokenizer.downsample == 16
    with pytest.raises(
        UserError, match="unknown model size 'janus_1b'; expected one of tiny, janus_pro_1b"
    ):
        named_size("janus_1b")


def test_sizes_that_do_not_fit_together_are_refused():
    with pytest.raises(UserError, match="shrinks 48 px by 16, the vision tower by 8"):
        JanusConfig(vision=VisionConfig(image_size=48, patch_size=8))
    with pytest.raises(UserError, match="16 query heads cannot share 3 key/value heads"):
        JanusConfig(decoder=DecoderConfig(kv_heads=3))
    with pytest.raises(UserError, match="24 channels do not split into the 32 groups"):
        JanusConfig(image_tokenizer=ImageTokenizerConfig(base_channels=24))
