"""Largest sizes of a model that are read from a file; what is larger would take hours or all memory.

They are far beyond any model of these kinds, and checked before anything is made of a size.
"""

from __future__ import annotations

MAX_LAYERS = 1000
MAX_WIDTH = 2**17
"""Of states, MLPs and channels."""
MAX_HEADS = 2**12
MAX_VOCABULARY = 2**22
"""Of words and of a codebook."""
MAX_POSITIONS = 2**26
MAX_IMAGE_SIDE = 2**13
"""Pixels."""
MAX_LEVELS = 8
"""Resolutions of an image tokenizer, each half of the one before."""
MAX_BLOCKS = 8
"""Residual blocks of a level. Each is a module of its own, which takes time to build."""
FIELD_LIMITS = {
    "vocab_size": MAX_VOCABULARY,
    "codebook_size": MAX_VOCABULARY,
    "width": MAX_WIDTH,
    "mlp_dim": MAX_WIDTH,
    "head_size": MAX_WIDTH,
    "code_dim": MAX_WIDTH,
    "latent_channels": MAX_WIDTH,
    "base_channels": MAX_WIDTH,
    "depth": MAX_LAYERS,
    "heads": MAX_HEADS,
    "kv_heads": MAX_HEADS,
    "max_length": MAX_POSITIONS,
    "image_size": MAX_IMAGE_SIDE,
    "patch_size": MAX_IMAGE_SIDE,
    "res_blocks": MAX_BLOCKS,
}
"""By field of the dataclasses of sizes in ``models``."""

MAX_TENSORS = 20_000
"""In one weight file; the largest released Janus has about 1,300."""
MAX_NAME_LENGTH = 300
"""Characters of a tensor's name."""
MAX_AXES = 8
"""Of a tensor."""
MAX_PICKLE_BYTES = 2**23
"""Of the description of a ``pytorch_model.bin``, which has some hundred bytes per tensor."""
