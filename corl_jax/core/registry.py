"""Names in a config to functions in code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from corl_jax.core.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of things that a config chooses by name; duplicates are refused, a miss lists what there is."""

    def __init__(self, what: str):
        self.what = what
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under ``name``."""

        def wrap(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.what} {name!r} is registered twice")
            self._items[name] = item
            return item

        return wrap

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise UserError(
                f"unknown {self.what} {name!r}; expected one of {', '.join(sorted(self._items))}"
            )
        return self._items[name]

    def require(self, name: str) -> None:
        """Raises UserError with the names there are, unless ``name`` is one of them."""
        self[name]

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)
