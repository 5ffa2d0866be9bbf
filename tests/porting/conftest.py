"""A small model of each kind, written by the torch Janus of transformers and read by corl_jax."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
from flax import nnx

from corl_jax.core.trees import bind
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import TINY, ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting.janus.folder import load_config, load_params

GROUPED = JanusConfig(
    vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_dim=64),
    decoder=DecoderConfig(
        vocab_size=90, width=48, depth=2, heads=4, kv_heads=2, head_size=16, mlp_dim=80,
        norm_eps=1e-5, rope_theta=5000.0, max_length=128
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=64, code_dim=4, latent_channels=32, base_channels=32,
        channel_multipliers=(1, 1, 2, 2), res_blocks=2
    ),
    gen_head_dim=48,
)  # fmt: skip
"""Grouped-query attention, a head size that is not width / heads, two residual blocks per level."""

CONFIGS = {"grouped": GROUPED, "tiny": TINY}


@dataclasses.dataclass(frozen=True)
class ModelPair:
    """One model in both frameworks.

    Attributes:
      torch_model: of transformers.
      model: of corl_jax, with the same weights.
      graphdef: of ``model``.
      params: of ``model``.
      cfg: sizes as read from the folder.
      expected_cfg: sizes that ``torch_model`` was built with.
      folder: that transformers wrote.
    """

    torch_model: Any
    model: Any
    graphdef: Any
    params: dict
    cfg: JanusConfig
    expected_cfg: JanusConfig
    folder: pathlib.Path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A folder with the tokenizer of the embedded world."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder):
    """The tokenizer of the embedded world."""
    return TextTokenizer.load(tokenizer_folder)


def torch_config(cfg: JanusConfig, tokenizer: TextTokenizer) -> Any:
    """The configuration of transformers, field by field, independent of corl_jax's writer."""
    from transformers import JanusConfig as TorchJanusConfig
    from transformers import LlamaConfig

    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer
    text = LlamaConfig(
        vocab_size=d.vocab_size, hidden_size=d.width, intermediate_size=d.mlp_dim,
        num_hidden_layers=d.depth, num_attention_heads=d.heads, num_key_value_heads=d.kv_heads,
        head_dim=d.head_size, rms_norm_eps=d.norm_eps, max_position_embeddings=d.max_length,
        rope_parameters={"rope_type": "default", "rope_theta": d.rope_theta},
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    vision = {
        "hidden_size": v.width, "num_hidden_layers": v.depth, "num_attention_heads": v.heads,
        "image_size": v.image_size, "patch_size": v.patch_size, "mlp_ratio": v.mlp_dim / v.width,
        "layer_norm_eps": v.norm_eps, "projection_dim": d.width,
        "num_image_tokens": cfg.image_tokens,
    }  # fmt: skip
    vq = {
        "embed_dim": t.code_dim, "num_embeddings": t.codebook_size,
        "latent_channels": t.latent_channels, "base_channels": t.base_channels,
        "channel_multiplier": list(t.channel_multipliers), "num_res_blocks": t.res_blocks,
        "projection_dim": d.width, "image_token_embed_dim": d.width,
    }  # fmt: skip
    return TorchJanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.image_id,
        tie_word_embeddings=False,
    )


def randomize(torch: Any, model: Any) -> None:
    """Fills in weights of sensible size, so that every part of the network matters."""
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
def model_pair(request, torch, tokenizer, tmp_path_factory) -> ModelPair:
    """The torch model, whose folder corl_jax reads."""
    from transformers import JanusForConditionalGeneration

    cfg = CONFIGS[request.param]
    torch_model = JanusForConditionalGeneration(torch_config(cfg, tokenizer)).eval()
    randomize(torch, torch_model)
    folder = tmp_path_factory.mktemp(request.param)
    torch_model.save_pretrained(folder)
    params = load_params(folder, cfg)
    graphdef, _ = nnx.split(abstract(cfg))
    return ModelPair(
        torch_model, bind(graphdef, params), graphdef, params, load_config(folder), cfg, folder
    )
