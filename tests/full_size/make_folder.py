"""Writes a Janus-Pro-1B folder with random bfloat16 weights in the original layout, tensor by tensor.

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

BF16 = np.dtype(ml_dtypes.bfloat16)
ATTN_POOL = {
    "latent": (1, 1, 1024), "q.weight": (1024, 1024), "q.bias": (1024,), "kv.weight": (2048, 1024), "kv.bias": (2048,),
    "proj.weight": (1024, 1024), "proj.bias": (1024,), "norm.weight": (1024,), "norm.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024), "mlp.fc1.bias": (4096,), "mlp.fc2.weight": (1024, 4096), "mlp.fc2.bias": (1024,),
}  # fmt: skip
"""The pooling head that the original builds and never calls."""


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights of sensible size; the same name always gives the same."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if len(shape) > 1:
        values *= np.prod(shape[1:]) ** -0.5 if "embed" not in name else 0.5
    else:
        values = 0.02 * values + float("norm" in name and name.endswith("weight"))
    return values.astype(BF16)


def write_tokenizer(folder: pathlib.Path) -> None:
    """A tokenizer with the ids of the released one where they are known; between them, words that mean nothing."""
    vocabulary = {token: 100003 + i for i, token in enumerate(JANUS_TEMPLATE.special_tokens)}
    vocabulary |= {JANUS_TEMPLATE.bos: 100000, JANUS_TEMPLATE.eos: 100001, JANUS_TEMPLATE.pad: 100002}
    vocabulary |= {"<begin_of_image>": 100016, "<image_placeholder>": 100581}
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
    """The whole folder."""
    folder.mkdir(parents=True)
    shapes = {
        name: tensor.shape
        for name, tensor in janus_tensors(JANUS_PRO_1B, LAYOUTS["original"]).items()
    }
    shapes |= {
        f"vision_model.vision_tower.attn_pool.{name}": shape for name, shape in ATTN_POOL.items()
    }
    shapes["gen_vision_model.quantize.codebook_used"] = (65536,)
    entries = {
        name: TensorEntry(TensorHeader(shape, BF16), functools.partial(numbers, name, shape))
        for name, shape in shapes.items()
    }
    write_weights(entries, folder, 5 * 10**9)
    (folder / "config.json").write_text(json.dumps(write_config(JANUS_PRO_1B, "bfloat16")), "utf-8")
    write_tokenizer(folder)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
