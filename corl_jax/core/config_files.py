"""Config files: those of the package and those of the user, found and loaded in one way.

A path that exists is taken, whatever the working directory. ``configs/NAME.py`` that does not exist
is the package's file of that name. This file imports no JAX, so that help is quick.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError, describe_error

if TYPE_CHECKING:
    from ml_collections import ConfigDict

T = TypeVar("T")

PACKAGE_FOLDER = pathlib.Path(__file__).parents[1] / "configs"
"""The folder of ``corl_jax.configs``."""
SHORT_FOLDER = "configs"
"""What users write in place of ``PACKAGE_FOLDER``."""
MODULE_NAME = "corl_jax_config_file"
"""In front of the name of a config file, as a module."""


def find_config(text: str, flag: str = "--config", defines: str = "get_config") -> pathlib.Path:
    """The config file that ``text`` names.

    Args:
      text: a path, or ``configs/NAME.py`` or ``NAME.py`` of the package.
      flag: for errors.
      defines: what such a file defines, for the list of those that exist.

    Raises:
      UserError: there is no such file; the error lists those of the package.
    """
    path = user_path(text, flag)
    if path.is_file():
        return path

    # A path to another folder is not ours, whatever its name is.
    if path.parent in (pathlib.Path(), pathlib.Path(SHORT_FOLDER)):
        packaged = PACKAGE_FOLDER / path.name
        if packaged.is_file():
            return packaged
    names = ", ".join(package_configs(defines))
    raise UserError(
        f"{flag} must be a file that exists, or one of the package, {names}; got {text!r}. "
        "Check the path"
    )


@functools.cache
def package_configs(defines: str = "get_config") -> Mapping[str, str]:
    """The package's config files as users write them, and the first line of their docstrings.

    Args:
      defines: name that a file has to define at its top to be one of them.
    """
    # Read and not imported: configs import the stages, which import JAX.
    summaries: dict[str, str] = {}
    for path in sorted(PACKAGE_FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if defines in _top_names(tree):
            docstring = ast.get_docstring(tree) or ""
            summaries[f"{SHORT_FOLDER}/{path.name}"] = docstring.partition("\n")[0]
    return summaries


def _top_names(tree: ast.Module) -> set[str]:
    """Names of functions and variables that a module defines at its top."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def load_config(text: str) -> ConfigDict:
    """The config that a command line names, before its flags change it.

    Afterwards modules beside the file and in the working directory can be imported.

    Args:
      text: ``FILE`` or ``FILE:ARGUMENT``, see ``find_config``.

    Raises:
      UserError: no such file; an argument that it refuses; or an error in it, with its line.
    """
    import ml_collections

    name, colon, argument = text.partition(":")
    path = find_config(name)
    module = load_module(path, "--config")
    if "get_config" not in vars(module):
        raise UserError(
            f"--config {str(path)!r} must have a function get_config; it has none. Write one, or "
            f"choose one of {', '.join(package_configs())}"
        )
    config = _call(path, "--config", lambda: module.get_config(*([argument] if colon else [])))
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config in {str(path)!r} must return an ml_collections.ConfigDict; got "
            f"{type(config).__name__}. Let it change and return a config of corl_jax.configs"
        )
    return config


def load_module(path: pathlib.Path, flag: str) -> ModuleType:
    """Runs a Python file of configs or studies, whose imports may be beside it.

    Args:
      path: from ``find_config``.
      flag: that named it, for errors.

    Raises:
      UserError: the file cannot be read, or fails.
    """
    add_import_folders(path)
    name = f"{MODULE_NAME}_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up here.
    sys.modules[name] = module
    _call(path, flag, lambda: loader.exec_module(module))
    return module


def add_import_folders(path: pathlib.Path) -> None:
    """Lets modules beside ``path``, and then those in the working directory, be imported.

    The package's own configs are imported as ``corl_jax.configs`` and add no folder.
    """
    folders = [pathlib.Path.cwd()]
    if path.parent.resolve() != PACKAGE_FOLDER.resolve():
        folders.append(path.parent.resolve())
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _call(path: pathlib.Path, flag: str, action: Callable[[], T]) -> T:
    """What ``action``, which runs code of ``path``, returns.

    Raises:
      UserError: any error, on one line that names the line of the file.
    """
    try:
        return action()
    except UserError:
        raise
    # The file is the user's code, whose errors are of any kind.
    except Exception as error:
        raise UserError(f"{flag} {str(path)!r} fails{_place(path, error)}") from error


def _place(path: pathlib.Path, error: Exception) -> str:
    """Where in ``path`` the error came from, and what to do about it."""
    if isinstance(error, SyntaxError):
        return f": {describe_error(error)}. Correct it"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if pathlib.Path(frame.filename) == path
    ]
    text = describe_error(error).rstrip(".")
    where = f" in line {lines[-1]}: {text}" if lines else f": {text}"
    # Configs were a package of their own before they became a part of this one.
    missing = (error.name or "") if isinstance(error, ImportError) else ""
    if missing.partition(".")[0] == SHORT_FOLDER:
        return f"{where}. Import from the package: from corl_jax.configs import unified"
    return f"{where}. Correct it"
