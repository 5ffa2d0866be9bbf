"""BLIP's captioner from a Hugging Face folder: tensor names, and the reward model spec.

Compatible with ``BlipForConditionalGeneration`` (transformers 5), as in
``Salesforce/blip-image-captioning-base``.
"""

from __future__ import annotations

from corl_jax.models.janus.config import VisionConfig
from corl_jax.porting.rules import (
    CONV,
    IDENTITY,
    LINEAR,
    SQUEEZE_FIRST,
    TensorLayout,
    TensorRule,
)
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.blip.config import HUB_ID, read_config
from corl_jax.reward_models.blip.model import BlipConfig, BlipModel
from corl_jax.reward_models.blip.text_decoder import BlipTextConfig
from corl_jax.reward_models.blip.tokenizer import TINY_WORDS

# As in the published model, two ids more than the tokenizer has; the first starts a caption.
TINY_CONFIG = BlipConfig(
    vision=VisionConfig(
        image_size=48, patch_size=8, width=64, depth=2, heads=4, mlp_dim=128, norm_eps=1e-5
    ),
    text=BlipTextConfig(
        vocab_size=len(TINY_WORDS) + 2,
        width=64,
        depth=2,
        heads=4,
        mlp_dim=128,
        max_length=64,
        bos_id=len(TINY_WORDS),
        sep_id=TINY_WORDS.index("[SEP]"),
        pad_id=TINY_WORDS.index("[PAD]"),
    ),
)


def _linear(
    tensor: str, path: str, layout: TensorLayout = LINEAR, part: tuple[int, int] = (0, 1)
) -> tuple[TensorRule, TensorRule]:
    """Kernel and bias of a linear map or a convolution, or ``part`` of a fused one."""
    return (
        TensorRule(f"{tensor}.weight", f"{path}/kernel", layout, part),
        TensorRule(f"{tensor}.bias", f"{path}/bias", IDENTITY, part),
    )


def _norm(tensor: str, path: str) -> tuple[TensorRule, TensorRule]:
    return (
        TensorRule(f"{tensor}.weight", f"{path}/scale"),
        TensorRule(f"{tensor}.bias", f"{path}/bias"),
    )


def _attention(tensor: str, path: str) -> tuple[TensorRule, ...]:
    """BERT's attention with its output and norm."""
    return (
        # Queries, keys and values are separate tensors in the decoder.
        *_linear(f"{tensor}.self.query", f"{path}/q_proj"),
        *_linear(f"{tensor}.self.key", f"{path}/k_proj"),
        *_linear(f"{tensor}.self.value", f"{path}/v_proj"),
        *_linear(f"{tensor}.output.dense", f"{path}/o_proj"),
        *_norm(f"{tensor}.output.LayerNorm", f"{path}/norm"),
    )


TOWER = "vision_model.embeddings"
TOWER_LAYER = "vision_model.encoder.layers.{layer}"
BERT = "text_decoder.bert.embeddings"
BERT_LAYER = "text_decoder.bert.encoder.layer.{layer}"
HEAD = "text_decoder.cls.predictions"

RULES: tuple[TensorRule, ...] = (
    # Vision tower; queries, keys and values are one tensor in the files.
    TensorRule(f"{TOWER}.class_embedding", "vision/token", SQUEEZE_FIRST),
    TensorRule(f"{TOWER}.position_embedding", "vision/position", SQUEEZE_FIRST),
    *_linear(f"{TOWER}.patch_embedding", "vision/patch_embed", CONV),
    *_linear(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/q_proj", part=(0, 3)),
    *_linear(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/k_proj", part=(1, 3)),
    *_linear(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/v_proj", part=(2, 3)),
    *_linear(f"{TOWER_LAYER}.self_attn.projection", "vision/layers/o_proj"),
    *_linear(f"{TOWER_LAYER}.mlp.fc1", "vision/layers/fc1"),
    *_linear(f"{TOWER_LAYER}.mlp.fc2", "vision/layers/fc2"),
    *_norm(f"{TOWER_LAYER}.layer_norm1", "vision/layers/norm1"),
    *_norm(f"{TOWER_LAYER}.layer_norm2", "vision/layers/norm2"),
    *_norm("vision_model.post_layernorm", "vision/norm"),
    # Text decoder, whose layers are not stacked.
    TensorRule(f"{BERT}.word_embeddings.weight", "text/words/embedding"),
    TensorRule(f"{BERT}.position_embeddings.weight", "text/positions/embedding"),
    *_norm(f"{BERT}.LayerNorm", "text/norm"),
    *_attention(f"{BERT_LAYER}.attention", "text/layers/{layer}/attention"),
    *_attention(f"{BERT_LAYER}.crossattention", "text/layers/{layer}/cross"),
    *_linear(f"{BERT_LAYER}.intermediate.dense", "text/layers/{layer}/fc1"),
    *_linear(f"{BERT_LAYER}.output.dense", "text/layers/{layer}/fc2"),
    *_norm(f"{BERT_LAYER}.output.LayerNorm", "text/layers/{layer}/norm"),
    # Head; its matrix is that of the word embeddings.
    *_linear(f"{HEAD}.transform.dense", "text/head"),
    *_norm(f"{HEAD}.transform.LayerNorm", "text/head_norm"),
    TensorRule(f"{HEAD}.bias", "text/bias"),
)

TIED_TENSORS = {
    f"{BERT}.word_embeddings.weight": f"{HEAD}.decoder.weight",
    f"{HEAD}.bias": f"{HEAD}.decoder.bias",
}
"""The second name of a tensor that has two; a file may hold both or either."""


def tied_tensor_name(name: str, file_names: frozenset[str]) -> str:
    """The name of a tensor in the files: its second one where they hold it only under that name."""
    # The first name is preferred where a file holds both.
    if name in TIED_TENSORS and name not in file_names and TIED_TENSORS[name] in file_names:
        return TIED_TENSORS[name]
    return name


CAPTIONER = RewardModelSpec(
    name="captioner",
    build_module=lambda cfg, rngs: BlipModel(cfg, rngs=rngs),
    tiny_config=TINY_CONFIG,
    full_config=BlipConfig(),
    read_config=read_config,
    rules=RULES,
    hub_id=HUB_ID,
    download_gb=0.99,
    unused_tensors=(*TIED_TENSORS.values(), "*.position_ids"),
    rename_tensor=tied_tensor_name,
)
"""BLIP base, the captioner of the published cycle reward."""
