"""A small model of each kind written by transformers' own torch Janus, and the same model read by us."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import pytest
from flax import nnx

from corl_jax.core.trees import bind
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import TINY, ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting.janus.folder import load_config, load_params

os.environ["HF_HUB_OFFLINE"] = "1"

GROUPED = JanusConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_dim=64),
    decoder=DecoderConfig(
        vocab_size=90, width=48, depth=2, heads=4, kv_heads=2, head_size=16, mlp_dim=80, norm_eps=1e-5,
        rope_theta=5000.0, max_length=128
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=64, code_dim=4, latent_channels=32, base_channels=32, channel_multipliers=(1, 1, 2, 2),
        res_blocks=2
    ),
    gen_head_dim=48,
)  # fmt: skip
"""Shared key/value heads, a head size that is not width / heads, two residual blocks per level."""

CONFIGS = {"grouped": GROUPED, "tiny": TINY}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One model on both sides: torch's, ours, our definition, parameters, sizes as read and as wanted, the folder."""

    theirs: Any
    ours: Any
    graphdef: Any
    params: dict
    cfg: JanusConfig
    wanted: JanusConfig
    folder: pathlib.Path


@pytest.fixture(scope="session")
def torch():
    """PyTorch on one thread, or a skip."""
    torch = pytest.importorskip(
        "torch", reason="parity needs torch: pip install -e '.[test]' (Python 3.11)"
    )
    torch.set_num_threads(1)
    return torch


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """The embedded world's tokenizer."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    """The same, loaded."""
    return TextTokenizer.load(tokenizer_folder)


def torch_config(cfg: JanusConfig, tokenizer: TextTokenizer) -> Any:
    """Theirs, field by field, independent of our own writer."""
    from transformers import JanusConfig as Theirs
    from transformers import LlamaConfig

    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer
    text = LlamaConfig(
        vocab_size=d.vocab_size, hidden_size=d.width, num_hidden_layers=d.depth, num_attention_heads=d.heads,
        num_key_value_heads=d.kv_heads, head_dim=d.head_size, intermediate_size=d.mlp_dim, rms_norm_eps=d.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": d.rope_theta}, max_position_embeddings=d.max_length,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = {
        "hidden_size": v.width, "num_hidden_layers": v.depth, "num_attention_heads": v.heads,
        "image_size": v.image_size, "patch_size": v.patch_size, "mlp_ratio": v.mlp_dim / v.width,
        "layer_norm_eps": v.norm_eps, "projection_dim": d.width, "num_image_tokens": cfg.image_tokens,
    }  # fmt: skip
    vq = {
        "embed_dim": t.code_dim, "num_embeddings": t.codebook_size, "latent_channels": t.latent_channels,
        "base_channels": t.base_channels, "channel_multiplier": list(t.channel_multipliers),
        "num_res_blocks": t.res_blocks, "projection_dim": d.width, "image_token_embed_dim": d.width,
    }  # fmt: skip
    return Theirs(text_config=text, vision_config=vision, vq_config=vq, image_token_id=tokenizer.image_id,
                  tie_word_embeddings=False)  # fmt: skip


def randomise(torch: Any, model: Any) -> None:
    """Weights of sensible size, so that every part of the network matters."""
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=numbers)
            if name.endswith("quantize.embedding.weight"):
                values = values / values.norm(dim=1, keepdim=True)
            elif "embedding" in name or "embed_tokens" in name:
                pass
            elif leaf.ndim > 1:
                values = values * leaf[0].numel() ** -0.5
            else:
                values = 0.1 * values + float("norm" in name and name.endswith("weight"))
            leaf.copy_(values)


@pytest.fixture(scope="session", params=list(CONFIGS))
def pair(request, torch, tokenizer, tmp_path_factory) -> Pair:
    """Torch writes the folder, we read it."""
    from transformers import JanusForConditionalGeneration

    cfg = CONFIGS[request.param]
    theirs = JanusForConditionalGeneration(torch_config(cfg, tokenizer)).eval()
    randomise(torch, theirs)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    params = load_params(folder, cfg)
    graphdef, _ = nnx.split(abstract(cfg))
    return Pair(theirs, bind(graphdef, params), graphdef, params, load_config(folder), cfg, folder)


def close(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Largest difference over largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and np.isfinite(theirs).all() and theirs.std() > 0
    gap = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert gap < tolerance, f"relative difference {gap:.1e}"


@pytest.fixture(scope="session")
def assert_close():
    """``close`` as a fixture."""
    return close
