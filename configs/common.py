"""What every config shares: the argument after the colon, blocks with their defaults, mesh presets."""

from __future__ import annotations

import ml_collections

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import SIZES


def _mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> dict[str, int]:
    return {"data": data, "fsdp": fsdp, "tensor": tensor}


MESHES = {
    "auto": _mesh(data=-1),
    "spread": _mesh(
        data=-1, fsdp=-32
    ),  # "auto" of 1B: up to 32 chips share the state, others repeat it
    "wide": _mesh(data=-1, fsdp=-16),  # "auto" of 7B
    "cpu": _mesh(),
    "cpu8": _mesh(data=4, fsdp=2),
    "v5e-8": _mesh(fsdp=8),
    "v5e-64": _mesh(data=2, fsdp=32),
    "v5e-256": _mesh(data=8, fsdp=32),
    "v6e-8": _mesh(fsdp=8),
    "v6e-64": _mesh(data=4, fsdp=16),
    "v5p-64": _mesh(data=2, fsdp=16),  # v4 and v5p are named by cores, of which a chip has two
    "v5p-128": _mesh(data=4, fsdp=16),
    "v4-32": _mesh(fsdp=16),
    "h100x1": _mesh(),
    "h100x8": _mesh(fsdp=8),
}
"""Names of meshes, for slices the names that Cloud TPU gives them."""


def parse_arg(arg: str | None, **defaults: str) -> dict[str, str]:
    """``tiny`` or ``size=tiny,mesh=cpu8`` to values; a bare word is the size.

    Raises:
      UserError: a name that this config does not have, or an unknown size or mesh.
    """
    values = {"size": "tiny", "mesh": "auto", "lora": "0"} | defaults
    for part in filter(None, (arg or "").split(",")):
        name, equals, value = part.partition("=")
        name, value = (name, value) if equals else ("size", part)
        if name not in values:
            raise UserError(
                f"unknown config argument {name!r}; expected {', '.join(sorted(values))}"
            )
        values[name] = value
    if values["size"] not in SIZES:
        raise UserError(
            f"unknown model size {values['size']!r}; expected one of {', '.join(SIZES)}"
        )
    if values["mesh"] not in MESHES:
        raise UserError(f"unknown mesh {values['mesh']!r}; expected one of {', '.join(MESHES)}")
    if not values["lora"].isdecimal():
        raise UserError(
            f"lora={values['lora']!r} is no rank; expected 0 (no adapters) or a whole number above"
        )
    return values


def base(stage: str, arg: dict[str, str]) -> ml_collections.ConfigDict:
    """The blocks that all stages have; a config fills in its own."""
    c = ml_collections.ConfigDict()
    c.stage = stage
    c.seed = 0
    c.steps = 0
    c.microbatches = 1
    c.updates_per_step = 1
    c.init_from = ""  # "" from scratch, SOURCE, or PATTERN=SOURCE,... ; SOURCE: tiny, HF folder, work directory

    unroll = (
        4 if arg["size"] == "tiny" else 1
    )  # a CPU runs the tiny layers a third faster without a loop
    c.model = ml_collections.ConfigDict(
        {
            "size": arg["size"],
            "compute_dtype": "auto",
            "remat": "none",
            "unroll": unroll,
            "attention": "einsum",
        }
    )
    c.model.param_dtype = "float32"  # or bfloat16, which keeps no master weights
    # Adapters on the kernels that target names; with a rank above 0 they alone are trained. docs/lora.md
    c.lora = ml_collections.ConfigDict(
        {
            "rank": int(arg["lora"]),
            "alpha": 16.0,
            "target": ("language_model/layers/*/kernel",),
            "base_dtype": "float32",  # or bfloat16
        }
    )
    auto = {"tiny": "auto", "janus_pro_1b": "spread", "janus_pro_7b": "wide"}[arg["size"]]
    c.mesh = ml_collections.ConfigDict(MESHES[auto if arg["mesh"] == "auto" else arg["mesh"]])
    # Changes to the table of core/sharding.py, logical name to mesh axes: while training, and while the policy samples.
    c.rules = ml_collections.ConfigDict({"update": {}, "rollout": {"embed": "", "vision": ""}})
    # shapes, or records: train.jsonl (and test.jsonl for probes) in dir. Of the questions those kinds and that type
    # (MC, OE) alone; of the training records the first ``limit``. Empty and 0: all.
    c.data = ml_collections.ConfigDict(
        {"name": "shapes", "dir": "", "questions": (), "qa_type": "", "limit": 0}
    )
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
    c.hooks = ml_collections.ConfigDict(
        {
            "save_every": 0,
            "sample_every": 0,
            "probe_every": 0,
            "interference_every": 0,
            "tensorboard_every": 10,
            "keep": 2,
        }
    )
    c.show = ("loss",)
    c.alarm = ml_collections.ConfigDict(
        {"watch": ("grad_norm",), "patience": 20, "dominates": 0.95, "probes": 3}
    )
    return c
