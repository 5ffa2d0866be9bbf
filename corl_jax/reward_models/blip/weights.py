"""BLIP's captioner from a Hugging Face folder: its table of tensors, and its kind.

Compatible with ``BlipForConditionalGeneration`` (transformers 5), as in ``Salesforce/blip-image-captioning-base``.
"""

from __future__ import annotations

from corl_jax.models.janus.config import VisionConfig
from corl_jax.porting.rules import CONV, FIRST, LINEAR, SAME, Layout, Rule
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.blip.config import HOME, read_config
from corl_jax.reward_models.blip.model import CaptionerConfig, CaptionNet
from corl_jax.reward_models.blip.text_decoder import CaptionTextConfig
from corl_jax.reward_models.blip.tokenizer import TINY_WORDS

TINY = CaptionerConfig(
    vision=VisionConfig(
        image_size=48, patch_size=8, width=64, depth=2, heads=4, mlp_dim=128, norm_eps=1e-5
    ),
    text=CaptionTextConfig(
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


def _both(
    foreign: str, ours: str, layout: Layout = LINEAR, part: tuple[int, int] = (0, 1)
) -> tuple[Rule, Rule]:
    """Weight and bias of a linear map or a convolution."""
    return (
        Rule(f"{foreign}.weight", f"{ours}/kernel", layout, part),
        Rule(f"{foreign}.bias", f"{ours}/bias", SAME, part),
    )


def _norm(foreign: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{foreign}.weight", f"{ours}/scale"), Rule(f"{foreign}.bias", f"{ours}/bias")


def _attention(foreign: str, ours: str) -> tuple[Rule, ...]:
    """BERT's attention with its output and norm."""
    return (
        *_both(f"{foreign}.self.query", f"{ours}/q_proj"),
        *_both(f"{foreign}.self.key", f"{ours}/k_proj"),
        *_both(f"{foreign}.self.value", f"{ours}/v_proj"),
        *_both(f"{foreign}.output.dense", f"{ours}/o_proj"),
        *_norm(f"{foreign}.output.LayerNorm", f"{ours}/norm"),
    )


TOWER, TOWER_LAYER = "vision_model.embeddings", "vision_model.encoder.layers.{layer}"
BERT, LAYER = "text_decoder.bert.embeddings", "text_decoder.bert.encoder.layer.{layer}"
HEAD = "text_decoder.cls.predictions"

RULES: tuple[Rule, ...] = (
    Rule(f"{TOWER}.class_embedding", "vision/token", FIRST),
    Rule(f"{TOWER}.position_embedding", "vision/position", FIRST),
    *_both(f"{TOWER}.patch_embedding", "vision/patch_embed", CONV),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/q_proj", part=(0, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/k_proj", part=(1, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/v_proj", part=(2, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.projection", "vision/layers/o_proj"),
    *_both(f"{TOWER_LAYER}.mlp.fc1", "vision/layers/fc1"),
    *_both(f"{TOWER_LAYER}.mlp.fc2", "vision/layers/fc2"),
    *_norm(f"{TOWER_LAYER}.layer_norm1", "vision/layers/norm1"),
    *_norm(f"{TOWER_LAYER}.layer_norm2", "vision/layers/norm2"),
    *_norm("vision_model.post_layernorm", "vision/norm"),
    Rule(f"{BERT}.word_embeddings.weight", "text/words/embedding"),
    Rule(f"{BERT}.position_embeddings.weight", "text/positions/embedding"),
    *_norm(f"{BERT}.LayerNorm", "text/norm"),
    *_attention(f"{LAYER}.attention", "text/layers/{layer}/attention"),
    *_attention(f"{LAYER}.crossattention", "text/layers/{layer}/cross"),
    *_both(f"{LAYER}.intermediate.dense", "text/layers/{layer}/fc1"),
    *_both(f"{LAYER}.output.dense", "text/layers/{layer}/fc2"),
    *_norm(f"{LAYER}.output.LayerNorm", "text/layers/{layer}/norm"),
    *_both(f"{HEAD}.transform.dense", "text/head"),
    *_norm(f"{HEAD}.transform.LayerNorm", "text/head_norm"),
    Rule(f"{HEAD}.bias", "text/bias"),
)

TIED = {
    f"{BERT}.word_embeddings.weight": f"{HEAD}.decoder.weight",
    f"{HEAD}.bias": f"{HEAD}.decoder.bias",
}
"""The second name of a tensor that has two; a file may hold both or either."""


def tied_name(name: str, found: frozenset[str]) -> str:
    """The name under which the files hold a tensor."""
    return TIED[name] if name in TIED and name not in found and TIED[name] in found else name


CAPTIONER = RewardModelSpec(
    name="captioner",
    build=lambda cfg, rngs: CaptionNet(cfg, rngs=rngs),
    tiny=TINY,
    full=CaptionerConfig(),
    read_config=read_config,
    rules=RULES,
    home=HOME,
    gigabytes=0.99,
    unused=(*TIED.values(), "*.position_ids"),
    rename=tied_name,
)
