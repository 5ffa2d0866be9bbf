"""LPIPS-VGG from a folder. In: the folder's files; out: what ``reward_models.base.load_reward_model`` needs to read it.

The folder holds the trunk as torchvision, timm or the lpips package name it (``features.0.weight`` or
``net.slice1.0.weight``), in safetensors, ``pytorch_model*.bin`` or torchvision's ``vgg16-*.pth``. The five linear
weights (``lin0.model.1.weight`` to ``lin4``) lie in the same file, or beside it in ``vgg.pth`` as the lpips package and
torchmetrics ship it (version 0.1, 7 kB), or in ``vgg_lin.npz`` under the same names. Sizes are VGG16's; a
``config.json`` is not read.
"""

from __future__ import annotations

import pathlib

from corl_jax.core.errors import UserError
from corl_jax.porting.rules import CONV, Layout, Rule
from corl_jax.porting.tensors import WEIGHTS, open_weights
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.lpips.model import Perceptual, PerceptualConfig

FEATURES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Places of the convolutions in torchvision's ``features``, block by block; between them lie ReLU and pooling."""
BESIDE = ("vgg.pth", "vgg_lin.npz")
"""Files that may hold the linear weights alone."""
CHANNELS = Layout(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])
"""torch ``[1, C, 1, 1]``, ours ``[C]``."""

RULES = (
    *(
        rule
        for block, places in enumerate(FEATURES)
        for i, place in enumerate(places)
        for rule in (
            Rule(f"features.{place}.weight", f"trunk/blocks/{block}/{i}/kernel", CONV),
            Rule(f"features.{place}.bias", f"trunk/blocks/{block}/{i}/bias"),
        )
    ),
    Rule("lin{block}.model.1.weight", "weights/{block}", CHANNELS),
)
SLICES = {str(place): block + 1 for block, places in enumerate(FEATURES) for place in places}


def rename(name: str, found: frozenset[str]) -> str:
    """The lpips package cuts ``features`` into five slices and keeps the places."""
    if name in found or not name.startswith("features."):
        return name
    sliced = f"net.slice{SLICES[name.split('.')[1]]}.{name.removeprefix('features.')}"
    return sliced if sliced in found else name


def _complete(folder: pathlib.Path) -> RewardModelSpec:
    """The kind itself, once it is clear that the linear weights are there.

    Raises:
      UserError: they are not.
    """
    if "lin0.model.1.weight" not in open_weights(folder, LPIPS.weights, LPIPS.beside).headers:
        raise UserError(
            f"the trunk in {str(folder)!r} is there, but not LPIPS's linear weights (lin0.model.1.weight to lin4); "
            f"put vgg.pth of the lpips package (lpips/weights/v0.1) or a {BESIDE[1]} into this folder"
        )
    return LPIPS


LPIPS = RewardModelSpec(
    name="perceptual distance",
    build=Perceptual,
    tiny=PerceptualConfig((8, 8, 8, 8, 8), (1, 1, 1, 1, 1)),
    full=PerceptualConfig(),
    read_config=lambda raw, where: PerceptualConfig(),
    rules=RULES,
    home="timm/vgg16.tv_in1k",
    gigabytes=0.55,
    unused=("classifier.*", "pre_logits.*", "head.*", "lins.*", "scaling_layer.*"),
    rename=rename,
    config=None,
    weights=(*WEIGHTS, "vgg16-*.pth"),
    beside=BESIDE,
    choose=_complete,
)
"""VGG16 trained on ImageNet, with the linear weights of LPIPS."""
