"""Writes a Janus-Pro-1B folder of random bfloat16 weights in the original layout, by tensor.

python tests/full_size/make_folder.py FOLDER
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
import zlib

import ml_dtypes
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.models.janus.config import JANUS_PRO_1B
from corl_jax.porting.janus.folder import janus_tensors
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.janus.original_config import write_config
from corl_jax.porting.tensors import TensorHeader
from corl_jax.porting.writer import TensorEntry, write_weights

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ATTENTION_POOL = {
    "latent": (1, 1, 1024),
    "q.weight": (1024, 1024),
    "q.bias": (1024,),
    "kv.weight": (2048, 1024),
    "kv.bias": (2048,),
    "proj.weight": (1024, 1024),
    "proj.bias": (1024,),
    "norm.weight": (1024,),
    "norm.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024),
    "mlp.fc1.bias": (4096,),
    "mlp.fc2.weight": (1024, 4096),
    "mlp.fc2.bias": (1024,),
}
"""Name to shape, of the pooling head that the original model has and never calls."""


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights of sensible size; the same name always gives the same."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if len(shape) > 1:
        values *= np.prod(shape[1:]) ** -0.5 if "embed" not in name else 0.5
    else:
        values = 0.02 * values + float("norm" in name and name.endswith("weight"))
    return values.astype(BFLOAT16)


def write_tokenizer(folder: pathlib.Path) -> None:
    """A tokenizer with those ids of the released one that are known, and words without meaning."""
    # Special tokens.
    vocabulary = {token: 100003 + i for i, token in enumerate(JANUS_TEMPLATE.special_tokens)}
    vocabulary |= {
        JANUS_TEMPLATE.bos: 100000,
        JANUS_TEMPLATE.eos: 100001,
        JANUS_TEMPLATE.pad: 100002,
        "<begin_of_image>": 100016,
        "<image_placeholder>": 100581,
    }

    # A few real words, and fill words up to the released size.
    words = ["<unk>", "\n", " ", ":", "a", "red", "circle", "what", "is", "this", "?"]
    vocabulary |= {word: i for i, word in enumerate(words)}
    vocabulary |= {f"w{i}": i for i in range(len(words), 100000)}

    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(r"[a-z0-9]+|[:?\n]| "), "isolated"
    )
    tokenizer.add_special_tokens(list(JANUS_TEMPLATE.special_tokens))
    tokenizer.save(str(folder / "tokenizer.json"))


def main(folder: pathlib.Path) -> None:
    """Writes weights, config and tokenizer into ``folder``."""
    folder.mkdir(parents=True)
    tensors = janus_tensors(JANUS_PRO_1B, LAYOUTS["original"])
    shapes = {name: tensor.shape for name, tensor in tensors.items()}

    # Tensors of the released file that we do not read.
    pool = "vision_model.vision_tower.attn_pool"
    shapes |= {f"{pool}.{name}": shape for name, shape in ATTENTION_POOL.items()}
    shapes["gen_vision_model.quantize.codebook_used"] = (65536,)

    # A tensor is made when it is written, so that one at a time is in memory.
    entries = {
        name: TensorEntry(
            TensorHeader(shape, BFLOAT16), functools.partial(random_tensor, name, shape)
        )
        for name, shape in shapes.items()
    }
    write_weights(entries, folder, 5 * 10**9)
    (folder / "config.json").write_text(json.dumps(write_config(JANUS_PRO_1B, "bfloat16")), "utf-8")
    write_tokenizer(folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
