"""Says what a policy is: layout, parameters by part, special tokens. Reads no weights."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from corl_jax.commands.common import add_policy

if TYPE_CHECKING:
    from corl_jax.porting.janus.folder import JanusFolder
    from corl_jax.porting.policy_source import PolicySource


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table."""
    # Imported here, so that help is quick.
    from corl_jax.models.lora import is_adapter
    from corl_jax.porting.policy_source import open_policy_source

    # A Hugging Face folder or a work directory.
    source = open_policy_source(args.policy)
    folder, saved_paths = source.janus_folder, source.saved_paths()
    kind = "work directory" if folder is None else f"{folder.layout.name} layout"
    print(f"{args.policy}: {kind}")

    # Parameters by part, largest part first.
    sizes = _part_sizes(source, saved_paths)
    for part, size in sorted(sizes.items(), key=lambda entry: -entry[1]):
        print(f"{part:24}{size:>16,}")
    print(f"{'parameters':24}{sum(sizes.values()):>16,}")

    # Adapters and files, where there are some.
    adapters = sum(map(is_adapter, saved_paths or ()))
    if adapters:
        print(
            f"{'adapters':24}{adapters:>16,} arrays, added to their kernels by all that reads them"
        )
    if folder is not None:
        _print_files(folder)

    # The tokenizer says which ids the model treats specially.
    tokenizer = source.load_tokenizer()
    names = ("bos", "eos", "pad", "boi", "eoi", "image")
    ids = ", ".join(f"{name} {getattr(tokenizer, f'{name}_id')}" for name in names)
    print(f"special tokens: {ids}")
    return 0


def _part_sizes(source: PolicySource, saved_paths: set[str] | None) -> dict[str, int]:
    """Parameters of each part of the model; only ``saved_paths``, or all for None."""
    from corl_jax.core.trees import flatten_abstract
    from corl_jax.models.janus.model import abstract

    # The abstract model has shapes but no numbers, so that nothing is read or allocated.
    sizes: dict[str, int] = {}
    for path, leaf in flatten_abstract(abstract(source.cfg)).items():
        if saved_paths is None or path in saved_paths:
            part = path.partition("/")[0]
            sizes[part] = sizes.get(part, 0) + math.prod(leaf.shape)
    return sizes


def _print_files(folder: JanusFolder) -> None:
    """Prints what the files of weights contain, and which tensors are not part of the model."""
    # Headers say shapes and dtypes; the numbers are not read.
    weights = folder.reader.weights
    headers = weights.headers
    print(f"{'in the files':24}{sum(math.prod(h.shape) for h in headers.values()):>16,}")
    dtypes = ", ".join(sorted({str(header.dtype) for header in headers.values()}))
    print(f"{'bytes':24}{weights.nbytes:>16,}  {dtypes}")

    if unused := folder.reader.unused_names():
        size = sum(math.prod(headers[name].shape) for name in unused)
        print(f"{'read by nothing':24}{size:>16,}  {', '.join(unused)}")
