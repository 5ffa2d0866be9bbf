"""What every config shares: the argument after the colon, blocks with their defaults, named meshes."""

from __future__ import annotations

import dataclasses

import ml_collections

from corl_jax.core.errors import UserError
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.models.janus.config import SIZES
from corl_jax.stages.config import (
    DataConfig,
    EvalsConfig,
    HooksConfig,
    LoraConfig,
    ModelConfig,
    ResumeConfig,
    TrackersConfig,
)


def _mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> dict[str, int]:
    return {"data": data, "fsdp": fsdp, "tensor": tensor}


MESHES = {
    "auto": _mesh(data=-1),
    # "auto" of 1B and of 7B: up to so many chips share the train state, the others replicate it.
    "spread": _mesh(data=-1, fsdp=-32),
    "wide": _mesh(data=-1, fsdp=-16),
    "cpu": _mesh(),
    "cpu8": _mesh(data=4, fsdp=2),
    "v5e-1": _mesh(),
    "v5e-8": _mesh(fsdp=8),
    "v5e-64": _mesh(data=2, fsdp=32),
    "v5e-256": _mesh(data=8, fsdp=32),
    "v6e-8": _mesh(fsdp=8),
    "v6e-64": _mesh(data=4, fsdp=16),
    # v4 and v5p are named by cores, of which a chip has two.
    "v5p-64": _mesh(data=2, fsdp=16),
    "v5p-128": _mesh(data=4, fsdp=16),
    "v4-32": _mesh(fsdp=16),
    "l4x1": _mesh(),
    "a100_40x1": _mesh(),
    **{f"{gpu}x{count}": _mesh(fsdp=count) for gpu in ("a100", "h100", "h200") for count in (1, 8)},
}
"""Meshes by name; slices have the names that Cloud TPU gives them."""

AUTO_MESH = {"tiny": "auto", "janus_pro_1b": "spread", "janus_pro_7b": "wide"}
"""Model size to the mesh that ``mesh=auto`` stands for."""


def parse_arg(arg: str | None, **defaults: str) -> dict[str, str]:
    """``tiny`` or ``size=tiny,mesh=cpu8`` as values by name; a bare word is the size.

    Raises:
      UserError: a name that this config does not have, or an unknown size or mesh.
    """
    values = {"size": "tiny", "mesh": "auto", "lora": "0"} | defaults
    for part in filter(None, (arg or "").split(",")):
        name, equals, value = part.partition("=")
        name, value = (name, value) if equals else ("size", part)
        if name not in values:
            raise UserError(
                f"a config argument must be one of {', '.join(sorted(values))}; got {name!r}"
            )
        values[name] = value

    if values["size"] not in SIZES:
        raise UserError(f"the model size must be one of {', '.join(SIZES)}; got {values['size']!r}")
    if values["mesh"] not in MESHES:
        raise UserError(f"the mesh must be one of {', '.join(MESHES)}; got {values['mesh']!r}")
    if not values["lora"].isdecimal():
        raise UserError(
            "lora must be the rank of the adapters, a whole number of at least 0 (none); got "
            f"{values['lora']!r}"
        )
    return values


def defaults(*blocks: type) -> ml_collections.ConfigDict:
    """The fields of dataclasses with their defaults, as a block of a config."""
    values: dict[str, object] = {}
    for block in blocks:
        values |= dataclasses.asdict(block())
    return ml_collections.ConfigDict(values)


def base(stage: str, arg: dict[str, str]) -> ml_collections.ConfigDict:
    """The blocks that all stages have, with their defaults; a config changes what it needs."""
    c = ml_collections.ConfigDict()
    c.stage = stage
    c.seed = 0
    c.steps = 0
    c.microbatches = 1
    c.updates_per_step = 1
    # Where the initial parameters come from: "" (random), SOURCE, or PATTERN=SOURCE,...
    # A SOURCE is tiny (the shipped base), a Hugging Face folder or id, or a work directory.
    c.init_from = ""

    c.model = defaults(ModelConfig)
    c.model.size = arg["size"]
    if arg["size"] == "tiny":
        c.model.unroll = 0  # by the platform
    # With a rank above 0 the adapters alone are trained: docs/lora.md.
    c.lora = defaults(LoraConfig)
    c.lora.rank = int(arg["lora"])

    c.mesh = ml_collections.ConfigDict(
        MESHES[AUTO_MESH[arg["size"]] if arg["mesh"] == "auto" else arg["mesh"]]
    )
    # Changes to the rules of core/sharding.py, logical axis to mesh axes: for the update, and for
    # rollouts, which replicate the weights that they read at every token.
    c.sharding_rules = ml_collections.ConfigDict(
        {"update": {}, "rollout": {"embed": "", "vision": ""}}
    )

    c.data = defaults(DataConfig)
    c.optim = ml_collections.ConfigDict(
        {
            "learning_rate": 1e-3,
            "warmup_ratio": 0.0,  # share of all updates
            "schedule": "constant",
            "final_fraction": 0.0,
            "b1": 0.9,
            "b2": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "first_moment_dtype": "float32",  # or bfloat16
        }
    )

    c.hooks = defaults(HooksConfig)
    c.trackers = defaults(TrackersConfig)
    # How one start goes on with a run, such as after damage: docs/resuming.md.
    c.resume = defaults(ResumeConfig)
    c.progress_metrics = ("loss",)
    c.alarms = defaults(AlarmConfig)
    c.alarms.watch = ("grad_norm",)
    return c


def evals(**values: object) -> ml_collections.ConfigDict:
    """The block ``evals`` with some of its values changed."""
    block = defaults(EvalsConfig)
    block.update(values)
    return block
