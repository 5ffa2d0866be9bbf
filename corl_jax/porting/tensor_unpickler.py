"""Reads the pickle in which torch describes tensors; everything else in a pickle is refused.

The machine is the one of Python's library that is written in Python, with those instructions alone
that torch writes. Unlike the one in C it has no table whose size a file can ask for, so memory and
time are bounded by the length of the pickle.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from corl_jax.porting.size_limits import MAX_AXES

# The classes of torch that a pickle names for storages.
STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor whose numbers are not read yet.

    Attributes:
      key: name of its storage in the archive.
      dtype: of its numbers.
      size: count of numbers in the storage.
      offset: index in the storage of the tensor's first number.
      shape: of the tensor.
      stride: for each axis, the distance between neighbors in the storage, in numbers.
    """

    key: str
    dtype: np.dtype
    size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def fits_storage(self) -> bool:
        """Whether every element is inside the storage, so that a view of it is safe."""
        # The values come from the file, so even their types are checked.
        numbers = (self.size, self.offset, *self.shape, *self.stride)
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            return False
        # With a stride of 0 a number could stand for any count of elements.
        if len(self.shape) != len(self.stride) or math.prod(self.shape) > self.size:
            return False

        # The index of the last element; an empty tensor has none.
        extents = [(n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)]
        return 0 in self.shape or self.offset + sum(extents) < self.size


def _rebuild_tensor(
    storage: tuple[str, str, int],
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    *_: object,
) -> LazyTensor:
    # The other arguments of torch's function concern gradients and hooks.
    kind, key, size = storage
    for numbers in (shape, stride):
        if not isinstance(numbers, tuple) or len(numbers) > MAX_AXES:
            raise pickle.UnpicklingError(f"a tensor has more than {MAX_AXES} axes")
    return LazyTensor(key, STORAGE_DTYPES[kind], size, offset, shape, stride)


def _rebuild_parameter(tensor: LazyTensor, *_: object) -> LazyTensor:
    return tensor


def _empty_dict() -> dict[str, object]:
    """In the place of ``OrderedDict``, which torch calls without arguments."""
    return {}


MAX_ARGUMENTS = 8
"""Arguments of a call in such a pickle; torch writes up to seven."""
EXPECTED_CONTENT = "expected the tensors of a model by name and nothing else"

ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _empty_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): name for name in STORAGE_DTYPES},
    # Tensors that were saved from a GPU have the same bytes.
    **{("torch.cuda", name): name for name in STORAGE_DTYPES},
}
"""Everything that a pickle of tensors imports, by (module, name)."""

INSTRUCTIONS = (
    "PROTO", "FRAME", "STOP", "MARK",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
)  # fmt: skip
"""Names in ``pickle`` of the instructions that a pickle of tensors has."""


class _Instructions(dict[int, Callable[..., None]]):
    def __missing__(self, code: int) -> Callable[..., None]:
        raise pickle.UnpicklingError(f"it has the instruction {code:#04x}, which no tensor needs")


class TensorUnpickler(pickle._Unpickler):
    """Imports nothing: what a pickle refers to is looked up in ``ALLOWED_GLOBALS`` or refused.

    ``load`` can raise any error over a file that is damaged or hostile.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    dispatch: ClassVar[dict[int, Callable[..., None]]] = _Instructions(
        (code, pickle._Unpickler.dispatch[code])
        for code in (vars(pickle)[name][0] for name in INSTRUCTIONS)
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(
                f"it imports {module}.{name}, which is not part of a tensor"
            )
        return ALLOWED_GLOBALS[module, name]

    def persistent_load(self, pid: object) -> tuple[str, str, int]:
        # torch refers to a storage by ("storage", type, key, device, count of numbers). The older
        # format adds an entry, which is set for a storage that is a view of another.
        match pid:
            case ("storage", str(kind), str(key), str(_), int(size), *rest) if (
                kind in STORAGE_DTYPES and rest in ([], [None])
            ):
                return kind, key, size
        raise pickle.UnpicklingError(
            f"it refers to a {type(pid).__name__}, which is not the storage of a tensor"
        )

    def load_reduce(self) -> None:
        # Long arguments that many calls share would be copied by each of them.
        arguments = self.stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError(f"a call has more than {MAX_ARGUMENTS} arguments")
        self.stack.append(self.stack.pop()(*arguments))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        # A key of nested tuples could take for ever to hash.
        if not all(isinstance(key, str) for key in items[::2]):
            raise pickle.UnpicklingError("it has a key that is no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def load_build(self) -> None:
        # What torch sets is a note about versions.
        self.stack.pop()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.BUILD[0]] = load_build
