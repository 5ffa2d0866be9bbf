"""Tables that map the tensors of a checkpoint to parameters, by name and by layout of the array.

A ``TensorRule`` pairs a pattern of tensor names with a pattern of parameter paths. ``{name}`` is a
segment that both sides share. ``{layer}`` on the side of the tensor alone means that the
checkpoint has one tensor per layer, which are stacked along the first axis of the parameter.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from corl_jax.core.errors import UserError

MAX_LISTED = 8
"""Names that an error lists; a file of another kind of model may have thousands of others."""

Transform = Callable[[np.ndarray], np.ndarray]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TensorLayout:
    """How the axes of an array differ between checkpoint and parameter.

    Attributes:
      to_param: from the checkpoint's array to the parameter's.
      to_checkpoint: the inverse of ``to_param``.
    """

    to_param: Transform
    to_checkpoint: Transform


IDENTITY = TensorLayout(lambda x: x, lambda x: x)
LINEAR = TensorLayout(lambda x: x.T, lambda x: x.T)
"""torch ``[out, in]``, parameter ``[in, out]``."""
CONV = TensorLayout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
"""torch ``[O, I, h, w]``, parameter ``[h, w, I, O]``."""
SQUEEZE_FIRST = TensorLayout(lambda x: x[0], lambda x: x[None])
"""The checkpoint has a leading axis of size 1, the parameter does not."""


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One row of a table of tensors.

    Attributes:
      tensor_name: pattern of tensor names in the checkpoint.
      param_path: pattern of parameter paths.
      layout: how the two arrays differ.
      part: ``(i, n)`` if the checkpoint fuses ``n`` parameters of equal size along the first axis
        of one tensor, as in ``qkv``, and this parameter is the ``i``-th.
    """

    tensor_name: str
    param_path: str
    layout: TensorLayout = IDENTITY
    part: tuple[int, int] = (0, 1)

    @property
    def stacked(self) -> bool:
        """Whether the parameter stacks the tensors of all layers."""
        return "{layer}" in self.tensor_name and "{layer}" not in self.param_path

    def to_param(self, tensor: np.ndarray) -> np.ndarray:
        """The parameter from its tensor; one layer of it where layers are stacked."""
        index, count = self.part
        return self.layout.to_param(np.split(tensor, count)[index])


@dataclasses.dataclass(frozen=True)
class ParamSlice:
    """A parameter (``layer`` None) or one layer of it, which fills a tensor or a part of one."""

    path: str
    layer: int | None
    rule: TensorRule


@dataclasses.dataclass(frozen=True)
class CheckpointTensor:
    """A tensor as the checkpoint stores it, and what it consists of along its first axis."""

    shape: Shape
    slices: tuple[ParamSlice, ...]

    def assemble(self, get_slice: Callable[[ParamSlice], np.ndarray]) -> np.ndarray:
        """The tensor in the checkpoint's layout, from the parameters that ``get_slice`` returns."""
        arrays = [part.rule.layout.to_checkpoint(get_slice(part)) for part in self.slices]
        return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def checkpoint_tensors(
    param_shapes: Mapping[str, Shape], rules: Sequence[TensorRule]
) -> dict[str, CheckpointTensor]:
    """Every tensor in a checkpoint of a model, by name.

    Args:
      param_shapes: shapes of the model's parameters by path.
      rules: the table; the first rule that matches a path counts.

    Raises:
      ValueError: no rule matches a parameter, or the rules of a fused tensor lack a part.
    """
    patterns = [(_path_pattern(rule.param_path), rule) for rule in rules]
    shapes: dict[str, Shape] = {}
    slices: dict[str, dict[int, ParamSlice]] = {}

    for path, shape in param_shapes.items():
        segments, rule = _match_rule(path, patterns)
        index, count = rule.part

        # The layout is tried on an array of the parameter's shape that takes no memory.
        layer_shape = shape[1:] if rule.stacked else shape
        example = rule.layout.to_checkpoint(np.broadcast_to(np.float32(0), layer_shape))
        tensor_shape = (example.shape[0] * count, *example.shape[1:])

        # A stacked parameter fills one tensor per layer.
        for layer in range(shape[0]) if rule.stacked else [None]:
            values = segments if layer is None else segments | {"layer": layer}
            name = rule.tensor_name.format(**values)
            shapes[name] = tensor_shape
            slices.setdefault(name, {})[index] = ParamSlice(path, layer, rule)

    # A fused tensor can only be written if all of its parts are in the table.
    for name, parts in slices.items():
        first_part = parts[min(parts)]
        if sorted(parts) != list(range(first_part.rule.part[1])):
            raise ValueError(f"the table has only the parts {sorted(parts)} of tensor {name!r}")

    return {
        name: CheckpointTensor(shapes[name], tuple(parts[index] for index in sorted(parts)))
        for name, parts in slices.items()
    }


def _match_rule(
    path: str, patterns: Sequence[tuple[re.Pattern[str], TensorRule]]
) -> tuple[dict[str, Any], TensorRule]:
    """The first rule that matches ``path``, and the segments that its ``{name}`` stand for."""
    for pattern, rule in patterns:
        match = pattern.fullmatch(path)
        if match is not None:
            return match.groupdict(), rule
    raise ValueError(f"no rule of the table matches parameter {path!r}")


def _path_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression with one named group for each ``{name}`` of ``pattern``."""
    # re.split with a group alternates between text (even) and names of groups (odd).
    parts = re.split(r"\{(\w+)\}", pattern)
    expressions = [
        f"(?P<{part}>[^./]+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    ]
    return re.compile("".join(expressions))


def check_tensor_names(
    expected: Mapping[str, Shape],
    stored: Mapping[str, Shape],
    unused: Sequence[str],
    folder: str,
) -> None:
    """Raises one error that lists every tensor that is missing, unknown or of another shape.

    Args:
      expected: shapes that the model needs, by tensor name.
      stored: shapes in the files, by tensor name.
      unused: patterns of names that no model reads; ``*`` matches dots as well.
      folder: of the files, for the error.

    Raises:
      UserError: names or shapes differ.
    """
    # Everything is collected first: a user should see all problems of a folder at once.
    missing = sorted(expected.keys() - stored.keys())
    surplus = sorted(stored.keys() - expected.keys())
    unknown = [name for name in surplus if not is_unused(name, unused)]
    misshapen = [
        f"{name} {stored[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & stored.keys())
        if tuple(expected[name]) != tuple(stored[name])
    ]

    problems = []
    if missing:
        problems.append(f"missing: {_summarize_names(missing)}")
    if unknown:
        problems.append(f"not used: {_summarize_names(unknown)}")
    if misshapen:
        problems.append(f"of another shape: {_summarize_names(misshapen)}")

    if problems:
        raise UserError(
            f"the weights in {folder!r} do not fit its config.json ({'; '.join(problems)}); "
            "take all files from the same checkpoint"
        )


def is_unused(name: str, unused: Sequence[str]) -> bool:
    """Whether ``name`` matches one of the patterns in ``unused``; ``*`` matches dots as well."""
    # After escaping, the star of a pattern is ``\*``.
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in unused)


def count_parameters(tensors: Mapping[str, CheckpointTensor]) -> int:
    """Number of parameters in all ``tensors``."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def _summarize_names(names: Iterable[str]) -> str:
    """``names`` with those that differ in their first number as one, ``layers.[0-23].norm``."""
    # The key is the name without its first number; -1 stands for a name without number.
    numbers_by_rest: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?\.)([0-9]{1,9})(\..*)", name)
        head, number, tail = match.groups() if match else (name, -1, "")
        numbers_by_rest.setdefault((head, tail), []).append(int(number))

    summaries = [
        f"{head}{_number_ranges(numbers)}{tail}"
        for (head, tail), numbers in itertools.islice(numbers_by_rest.items(), MAX_LISTED)
    ]
    more = len(numbers_by_rest) - MAX_LISTED
    return ", ".join(summaries) + (f" and {more} more" if more > 0 else "")


def _number_ranges(numbers: list[int]) -> str:
    """``[0-2,5]`` for 0, 1, 2, 5; a single number as it is; nothing for -1."""
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return "" if ordered[0] < 0 else str(ordered[0])

    # Each run is [first, last] of consecutive numbers.
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])

    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return f"[{','.join(texts[:MAX_LISTED])}{',...' if len(texts) > MAX_LISTED else ''}]"
