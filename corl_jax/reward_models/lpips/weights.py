"""LPIPS-VGG from a folder: tensor names, and the spec that ``load_reward_model`` needs.

The folder holds the trunk as torchvision, timm or the lpips package name it (``features.0.weight``
or ``net.slice1.0.weight``), in safetensors, ``pytorch_model*.bin`` or torchvision's
``vgg16-*.pth``. The five linear weights (``lin0.model.1.weight`` to ``lin4``) are in the same file,
or in ``vgg.pth`` of the lpips package and torchmetrics (version 0.1, 7 kB), or in ``vgg_lin.npz``
under the same names. Sizes are those of VGG16; a ``config.json`` is not read.
"""

from __future__ import annotations

import pathlib

from corl_jax.core.errors import UserError
from corl_jax.porting.rules import CONV, TensorLayout, TensorRule
from corl_jax.porting.tensors import WEIGHT_PATTERNS, open_weights
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.lpips.model import LpipsConfig, LpipsModel

VGG_CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Index of each convolution in torchvision's ``features``, block by block.

The indices between are ReLU and pooling, which have no weights.
"""
SLICE_NUMBERS = {
    str(index): block + 1 for block, indices in enumerate(VGG_CONVOLUTIONS) for index in indices
}
"""Index of a convolution to the number of the slice that holds it in the lpips package."""
LINEAR_WEIGHT_FILES = ("vgg.pth", "vgg_lin.npz")
"""Files that may hold the linear weights alone."""
CHANNELS = TensorLayout(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])
"""torch ``[1, C, 1, 1]``, corl_jax ``[C]``."""


def _vgg_rules() -> list[TensorRule]:
    """Kernel and bias of every convolution."""
    rules = []
    # A layer of the files is counted over the whole trunk, here within its block.
    for block, indices in enumerate(VGG_CONVOLUTIONS):
        for i, index in enumerate(indices):
            path = f"trunk/blocks/{block}/{i}"
            rules.append(TensorRule(f"features.{index}.weight", f"{path}/kernel", CONV))
            rules.append(TensorRule(f"features.{index}.bias", f"{path}/bias"))
    return rules


RULES = (*_vgg_rules(), TensorRule("lin{block}.model.1.weight", "weights/{block}", CHANNELS))


def lpips_tensor_name(name: str, file_names: frozenset[str]) -> str:
    """The name of a tensor in the files: as in ``RULES``, or as the lpips package writes it.

    The package cuts ``features`` into five slices and keeps the indices.
    """
    # torchvision and timm use the names of the table; the linear weights have one name everywhere.
    if name in file_names or not name.startswith("features."):
        return name

    # The lpips package: features.12 is slice 3, index 12.
    index = name.split(".")[1]
    sliced_name = f"net.slice{SLICE_NUMBERS[index]}.{name.removeprefix('features.')}"
    return sliced_name if sliced_name in file_names else name


def require_linear_weights(folder: pathlib.Path) -> RewardModelSpec:
    """The one spec of LPIPS, after checking that the folder has the linear weights.

    Raises:
      UserError: the linear weights are missing; a folder of VGG16 alone does not have them.
    """
    # Of large files, only the headers are read here.
    files = open_weights(folder, LPIPS.weight_files, LPIPS.extra_files)
    if "lin0.model.1.weight" not in files.headers:
        raise UserError(
            f"{str(folder)!r} must hold LPIPS's linear weights (lin0.model.1.weight to lin4); got "
            "the VGG16 trunk alone. Put vgg.pth of the lpips package (lpips/weights/v0.1) or a "
            f"{LINEAR_WEIGHT_FILES[1]} into this folder"
        )
    return LPIPS


LPIPS = RewardModelSpec(
    name="LPIPS model",
    build_module=LpipsModel,
    # Channels and convolutions of the five blocks.
    tiny_config=LpipsConfig((8, 8, 8, 8, 8), (1, 1, 1, 1, 1)),
    full_config=LpipsConfig(),
    # There is only one size; a config.json of timm describes VGG16 in its own way.
    read_config=lambda raw, folder: LpipsConfig(),
    rules=RULES,
    hub_id="timm/vgg16.tv_in1k",
    download_gb=0.55,
    # Classifiers of torchvision and timm; second names and constants of the lpips package.
    unused_tensors=("classifier.*", "pre_logits.*", "head.*", "lins.*", "scaling_layer.*"),
    rename_tensor=lpips_tensor_name,
    config_file=None,
    # The last pattern is torchvision's own file.
    weight_files=(*WEIGHT_PATTERNS, "vgg16-*.pth"),
    extra_files=LINEAR_WEIGHT_FILES,
    # There is nothing to choose, but an incomplete folder gets an error with the next step.
    choose_layout=require_linear_weights,
)
"""VGG16 trained on ImageNet, with the linear weights of LPIPS."""
