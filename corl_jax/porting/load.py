"""Hugging Face folders to parameters. In: a folder with ``config.json`` and safetensors; out: config and ``Params``."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open

from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.models.config import JanusConfig
from corl_jax.models.unified import abstract
from corl_jax.porting.janus_pro import TRANSFORMERS, read_config
from corl_jax.porting.mapping import Rule, check_names, foreign_names


def load_config(folder: str | pathlib.Path) -> JanusConfig:
    """The sizes in ``config.json``.

    Raises:
      UserError: no such file, not JSON, or not a Janus model.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"there is no config.json in {str(folder)!r}; expected a Hugging Face model folder")
    try:
        raw = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}); get the file again") from None
    return read_config(raw, str(folder))


def load_params(folder: str | pathlib.Path, cfg: JanusConfig) -> Params:
    """Every parameter of the model as a float32 host array; nothing is missing, nothing is left over.

    Raises:
      UserError: no weights, a damaged file, or names and shapes that do not fit ``cfg``.
    """
    files = sorted(pathlib.Path(folder).glob("*.safetensors"))
    if not files:
        raise UserError(f"there are no *.safetensors in {str(folder)!r}; expected the weights of a Janus model")
    shapes, home = {}, {}
    for file in files:
        try:
            with safe_open(str(file), framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                    shapes[name], home[name] = tuple(tensors.get_slice(name).get_shape()), file
        except (SafetensorError, OSError) as error:
            raise UserError(f"{str(file)!r} cannot be read ({error}); get the file again") from None
    plan = plan_of(cfg)
    check_names({n: s for _, names, s in plan.values() for n in names}, shapes, str(folder))
    params: dict = {}
    for file in files:
        with safe_open(str(file), framework="numpy") as tensors:
            for path, (rule, names, _) in plan.items():
                if all(home[name] == file for name in names):
                    params[path] = _assemble([tensors.get_tensor(name) for name in names], rule)
    scattered = [path for path in plan if path not in params]
    for path in scattered:
        rule, names, _ = plan[path]
        parts = []
        for name in names:
            with safe_open(str(home[name]), framework="numpy") as tensors:
                parts.append(tensors.get_tensor(name))
        params[path] = _assemble(parts, rule)
    return params


def plan_of(cfg: JanusConfig) -> dict[str, tuple[Rule, list[str], tuple[int, ...]]]:
    """For every path of ours: its rule, the foreign names, and the foreign shape of each."""
    plan = {}
    leaves = flatten_abstract(abstract(cfg))
    for path, leaf in leaves.items():
        rule, names = foreign_names(path, TRANSFORMERS, lambda p: leaves[p].shape[0])
        one = leaf.shape[1:] if rule.stacked else leaf.shape
        plan[path] = (rule, names, rule.layout.outward(np.broadcast_to(np.float32(0), one)).shape)
    return plan


def _assemble(tensors: list[np.ndarray], rule: Rule) -> np.ndarray:
    parts = [np.ascontiguousarray(rule.layout.inward(tensor.astype(np.float32))) for tensor in tensors]
    return np.stack(parts) if rule.stacked else parts[0]
