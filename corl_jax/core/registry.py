"""Tables from a name in a config to an object in the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from corl_jax.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects that a config chooses by name.

    A name can be registered only once, and the error about an unknown name lists the known ones.

    Args:
      kind: what the objects are, for error messages, e.g. ``"reward"``.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers the decorated object as ``name`` and returns it unchanged."""

        def wrap(entry: T) -> T:
            # A programming error, so no UserError.
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return wrap

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            # The name comes from a config, so the user sees what there is to choose from.
            known = ", ".join(sorted(self._entries))
            raise UserError(f"unknown {self.kind} {name!r}; expected one of {known}")
        return self._entries[name]

    def require(self, name: str) -> None:
        """Checks that ``name`` is registered.

        Raises:
          UserError: an unknown name; the message lists the known ones.
        """
        self[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
