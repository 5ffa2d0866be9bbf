"""Says what a policy is: layout, parameters by part, special tokens. Reads no weights."""

from __future__ import annotations

import argparse
import math

from corl_jax.commands.common import add_policy


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table."""
    from corl_jax.core.trees import flatten_abstract
    from corl_jax.models.janus.model import abstract
    from corl_jax.models.lora import is_adapter
    from corl_jax.porting.policy_source import open_source

    source = open_source(args.policy)
    held = source.paths()
    parts: dict[str, int] = {}
    for path, leaf in flatten_abstract(abstract(source.cfg)).items():
        if held is None or path in held:
            top = path.partition("/")[0]
            parts[top] = parts.get(top, 0) + math.prod(leaf.shape)
    print(
        f"{args.policy}: {'work directory' if source.folder is None else f'{source.folder.format.name} layout'}"
    )
    for top, number in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{top:24}{number:>16,}")
    print(f"{'parameters':24}{sum(parts.values()):>16,}")
    if held is not None and any(map(is_adapter, held)):
        print(
            f"{'adapters':24}{sum(map(is_adapter, held)):>16,} arrays, added to their kernels by all that reads them"
        )
    if source.folder is not None:
        headers = source.folder.reader.weights.headers
        print(f"{'in the files':24}{sum(math.prod(h.shape) for h in headers.values()):>16,}")
        dtypes = ", ".join(sorted({str(header.dtype) for header in headers.values()}))
        print(f"{'bytes':24}{source.folder.reader.weights.nbytes:>16,}  {dtypes}")
        if unused := source.folder.reader.unused():
            number = sum(math.prod(headers[name].shape) for name in unused)
            print(f"{'read by nothing':24}{number:>16,}  {', '.join(unused)}")
    words = source.load_tokenizer()
    ids = ("bos", "eos", "pad", "boi", "eoi", "image")
    print("special tokens: " + ", ".join(f"{name} {getattr(words, f'{name}_id')}" for name in ids))
    return 0
