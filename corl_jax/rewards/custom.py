"""A user's own rewards. In: ``module:function``; out: an entry in the registry, called like the function."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.rewards.base import rewards


def register_custom(names: Sequence[str]) -> None:
    """Registers functions ``(completions, context) -> floats`` that live outside this package.

    Args:
      names: ``module:function`` each; the module is imported, from the working directory too.

    Raises:
      UserError: no such module or function, something that cannot be called, or a name that another reward has.
    """
    for name in names:
        module, colon, function = name.partition(":")
        if not colon:
            raise UserError(
                f"reward.own has {name!r}; expected module:function, for example my_rewards:brightness"
            )
        try:
            found = vars(importlib.import_module(module))
        except ImportError as error:
            raise UserError(
                f"reward.own has {name!r}, but {module!r} cannot be imported ({error})"
            ) from error
        if not callable(found.get(function)):
            raise UserError(f"reward.own has {name!r}, but {module!r} has no function {function!r}")
        if function not in rewards:
            rewards.register(function)(found[function])
        elif rewards[function] is not found[function]:
            raise UserError(
                f"reward.own has {name!r}, but there is a reward {function!r} already; rename the function"
            )
