"""One small model for the tests of this folder, with grouped key/value heads."""

import jax.numpy as jnp
import pytest
from flax import nnx

from corl_jax.core.trees import bind
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.language_model import DecoderConfig

SMALL = JanusConfig(
    vision=VisionConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, mlp_dim=24),
    decoder=DecoderConfig(
        vocab_size=40,
        width=32,
        depth=3,
        heads=4,
        kv_heads=2,
        head_size=8,
        mlp_dim=48,
        max_length=64,
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=32,
        code_dim=4,
        latent_channels=32,
        base_channels=32,
        channel_multipliers=(1, 1, 2),
        res_blocks=1,
    ),
    gen_head_dim=32,
)


@pytest.fixture(scope="session")
def small(random_params):
    """Graph definition and parameters of the small model."""
    shapes = abstract(SMALL)
    params = {path: jnp.asarray(leaf) for path, leaf in random_params(shapes).items()}
    return nnx.split(shapes)[0], params


@pytest.fixture(scope="session")
def model(small):
    """The small model, bound to its parameters."""
    return bind(*small)
