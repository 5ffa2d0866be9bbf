"""What benchmarks run: model sizes, random weights, prompts, and how much a training step does."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.runtime import compute_dtype, set_up_jax
from corl_jax.core.trees import flatten, flatten_abstract
from corl_jax.core.types import Params, Prompts
from corl_jax.data.shapes.vocabulary import (
    COLOURS,
    SHAPES,
    WORDS,
    build_tokenizer,
    write_tokenizer,
)
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad
from corl_jax.models.janus.config import (
    JANUS_PRO_1B,
    TINY,
    DecoderConfig,
    ImageTokenizerConfig,
    JanusConfig,
    VisionConfig,
)
from corl_jax.models.janus.model import initialise
from corl_jax.objectives.normalizations import normalizations
from corl_jax.porting.writer import save_folder
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.policy import Policy, abstract_model
from corl_jax.sampling.prompt_layout import SpecialTokenIds
from corl_jax.stages.param_placement import cast_matmul_params

# Four image tokens: to try a command, not to measure.
DOT = JanusConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, mlp_dim=32),
    decoder=DecoderConfig(
        vocab_size=72,
        width=32,
        depth=2,
        heads=2,
        kv_heads=2,
        head_size=16,
        mlp_dim=64,
        max_length=128,
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=32,
        latent_channels=32,
        base_channels=32,
        channel_multipliers=(1, 1, 1, 1),
        res_blocks=0,
    ),
    gen_head_dim=32,
)

# A language model of middle size, with as many image tokens (576, to understand and to generate)
# and codes (16384) as Janus-Pro. Vision tower and image tokenizer are small, so that the language
# model is what costs.
MID = JanusConfig(
    vision=VisionConfig(width=64, depth=1, heads=2, mlp_dim=128),
    decoder=DecoderConfig(
        vocab_size=72,
        width=512,
        depth=8,
        heads=8,
        kv_heads=8,
        head_size=64,
        mlp_dim=1408,
        max_length=1024,
    ),
    image_tokenizer=ImageTokenizerConfig(
        latent_channels=32, base_channels=32, channel_multipliers=(1, 1, 1, 1, 1), res_blocks=0
    ),
    gen_head_dim=512,
)

# Models by the name that ``--size`` takes.
SIZES = {"dot": DOT, "tiny": TINY, "mid": MID, "janus_pro_1b": JANUS_PRO_1B}

# Of every image prompt.
PROMPT_TOKENS = 20
# As in ``configs/unified.py`` at full size.
GUIDANCE_SCALE = 5.0
LEARNING_RATE, CLIP_NORM = 4e-6, 1.0


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much a training step does. There is no KL term, so no log-probs of a reference policy.

    Attributes:
      prompts: of each task.
      group_size: samples per prompt.
      answer_length: tokens of every answer.
      microbatches: parts over which corl_jax adds up gradients; on several devices there are so
        many times fewer.
      torch_parts: the same for torch, which holds the activations of one part in memory.
      chunk_length: completion tokens whose logits corl_jax holds at a time; 0 holds all.
      remat: what corl_jax saves of a layer for its backward pass, see ``models.layers``.
      unroll: layers per iteration of corl_jax's loop over layers.
    """

    prompts: int = 2
    group_size: int = 8
    answer_length: int = 64
    microbatches: int = 1
    torch_parts: int = 1
    chunk_length: int = 0
    remat: str = "none"
    unroll: int = 4

    @property
    def samples(self) -> int:
        """Images of a step, and as many answers."""
        return self.prompts * self.group_size

    def as_json(self) -> dict[str, Any]:
        """The entry in files of ``--json``, whose keys stay as they are."""
        return {
            "prompts": self.prompts,
            "group": self.group_size,
            "answer": self.answer_length,
            "microbatches": self.microbatches,
            "torch_parts": self.torch_parts,
            "chunk": self.chunk_length,
            "remat": self.remat,
            "unroll": self.unroll,
        }

    def advantages(self) -> np.ndarray:
        """``[B, G]`` from random rewards: the same for both tasks and every contender."""
        # Advantages of constant rewards would be 0, and so would the gradient.
        rewards = np.random.default_rng(0).uniform(size=(self.prompts, self.group_size))
        return np.array(normalizations["group"](jnp.asarray(rewards)), np.float32)


def check_size(size: str) -> None:
    """Raises UserError unless ``size`` is in ``SIZES``."""
    if size not in SIZES:
        raise UserError(f"--size must be one of {', '.join(SIZES)}; got {size!r}")


def get_model_config(size: str) -> JanusConfig:
    """The model of a size.

    Raises:
      UserError: an unknown size, or one that takes a CPU hours.
    """
    check_size(size)
    if size == "janus_pro_1b" and jax.default_backend() == "cpu":
        raise UserError(
            "--size must be mid or smaller on a CPU; got 'janus_pro_1b', which takes a CPU hours "
            "and about 30 GB. Use a GPU, or --size mid"
        )
    return SIZES[size]


def with_image_tokens(cfg: JanusConfig, image_tokens: int) -> JanusConfig:
    """``cfg`` for images of another size.

    Raises:
      UserError: ``image_tokens`` is not a square number.
    """
    # isqrt raises an error of its own for negative numbers.
    side = math.isqrt(max(image_tokens, 0))
    if side < 1 or side * side != image_tokens:
        raise UserError(
            "--image-tokens must be a square number, since images are square; got "
            f"{image_tokens}. Choose 4, 9, 16, 25, ..."
        )
    vision = dataclasses.replace(cfg.vision, image_size=side * cfg.vision.patch_size)
    return dataclasses.replace(cfg, vision=vision)


def make_random_policy(cfg: JanusConfig, dtype: str = "auto") -> Policy:
    """A policy of random weights, made on JAX's first device, that computes in the dtype of ``auto``.

    Its texts are those of the embedded world.

    Args:
      cfg: sizes of the model.
      dtype: in which matrices are kept, ``float32`` to train them; ``auto`` is the dtype in which
        they are multiplied. The image tokenizer and all vectors are float32.
    """
    set_up_jax()
    model = abstract_model(cfg, "auto")
    specs = cast_matmul_params(flatten_abstract(model), jnp.dtype(compute_dtype(dtype)))

    # One program makes all parameters. It compiles in half the time with this generator.
    def make(key: jax.Array) -> Params:
        params = flatten(initialise(cfg, key))[1]
        return {path: leaf.astype(specs[path].dtype) for path, leaf in params.items()}

    params = jax.block_until_ready(jax.jit(make)(jax.random.key(0, impl="unsafe_rbg")))
    tokenizer = TextTokenizer(build_tokenizer())
    ids = SpecialTokenIds.of(tokenizer, cfg.text_vocab_size)
    return Policy(cfg, tokenizer, PolicyFns(nnx.split(model)[0], cfg, ids), params)


def write_policy(policy: Policy, folder: pathlib.Path) -> pathlib.Path:
    """Writes a random policy as a Hugging Face folder, in the dtype in which it computes.

    Args:
      policy: from ``make_random_policy``.
      folder: an existing folder; the policy is written to a new one in it.

    Returns:
      the folder of the policy.
    """
    policy_folder = folder / "policy"
    dtype = jnp.dtype(compute_dtype("auto")).name
    save_folder(
        policy.params, policy.cfg, write_tokenizer(folder / "words"), policy_folder, dtype=dtype
    )
    return policy_folder


def make_image_prompts(tokenizer: TextTokenizer, count: int) -> Prompts:
    """``count`` different text-to-image prompts of ``PROMPT_TOKENS`` tokens, without padding."""
    words = tokenizer.encode(" ".join(WORDS))

    # Each prompt is a window of the vocabulary between the tokens that begin text and image.
    length = PROMPT_TOKENS - 2
    starts = [i % (len(words) - length) for i in range(count)]
    rows = [
        [tokenizer.bos_id, *words[start : start + length], tokenizer.boi_id] for start in starts
    ]
    return Prompts(np.array(rows, np.int32), np.ones((count, PROMPT_TOKENS), bool))


def make_question_prompts(tokenizer: TextTokenizer, cfg: JanusConfig, count: int) -> Prompts:
    """``count`` questions of two lengths, left-padded, each about an image of random pixels."""
    objects = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    # Every other question has a relation, which makes it longer.
    questions = []
    for i in range(count):
        relation = " left of a circle" if i % 2 else ""
        questions.append(f"is there a {objects[i % len(objects)]}{relation}?")

    rows = [tokenizer.question_prompt(question, cfg.image_tokens) for question in questions]

    # The images show nothing: only their size counts.
    side = cfg.vision.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)
    return Prompts(*left_pad(rows, tokenizer.pad_id), images)
