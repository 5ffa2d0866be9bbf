"""Rewards that a user writes outside this package, registered from ``module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.rewards.base import rewards


def register_custom(names: Sequence[str]) -> None:
    """Registers reward functions that are defined outside this package, under their own names.

    Args:
      names: ``module:function`` each, for functions ``(completions, context) -> floats``. Modules
        are imported as Python imports them; ``core.config_files`` adds the folder of the config and
        the working directory to the places that it looks in.

    Raises:
      UserError: a module or function that does not exist or cannot be called, or a name that
        another reward has.
    """
    for name in names:
        module_name, colon, function_name = name.partition(":")
        if not colon:
            raise UserError(
                f"config.rewards.options.custom must list module:function; got {name!r}. "
                "Write for example my_rewards:brightness."
            )

        # The module is the user's code: whatever import it misses is named in the error.
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UserError(
                "config.rewards.options.custom must list modules that can be imported; "
                f"got {name!r} ({error}). "
                "Check the module's name, and that it is beside the config, in the working directory "
                "or installed."
            ) from error

        # A function, a class or any other callable will do.
        function = vars(module).get(function_name)
        if not callable(function):
            raise UserError(
                f"config.rewards.options.custom must list functions of their module; got {name!r}, but "
                f"{module_name!r} has no function {function_name!r}. Check its name."
            )

        # A config may be read more than once in a process: the same function again is no error.
        if function_name not in rewards:
            rewards.register(function_name)(function)
        elif rewards[function_name] is not function:
            raise UserError(
                f"config.rewards.options.custom must use new reward names; got {name!r}, but a reward "
                f"{function_name!r} exists already. Rename the function."
            )
