"""Writes a policy as a model folder, or its adapters for PEFT, and uploads it if asked to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from corl_jax.commands.common import add_policy, path_flag

if TYPE_CHECKING:
    pass

# Repeated from ``porting``, which help must not wait for.
LAYOUTS = ("transformers", "original")
DTYPES = ("stored", "float32", "bfloat16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    parser.add_argument(
        "--out",
        type=path_flag,
        help="new folder; it is complete when it appears (may be left out with --push)",
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="transformers", help="names of tensors and settings"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="stored",
        help="of the weights written (default: as the policy has them)",
    )
    parser.add_argument(
        "--adapters",
        action="store_true",
        help="write the adapters of a run with config.lora alone, as PEFT reads them",
    )
    parser.add_argument(
        "--base-model",
        default="",
        help="where others find what the run started from: an id on the Hugging Face hub",
    )


def run(args: argparse.Namespace) -> int:
    """Loads the policy, writes the folder and prints its path."""
    # Imported here, so that help is quick.
    from corl_jax.porting.new_folder import check_new_folder
    from corl_jax.porting.policy_source import open_policy_source

    check_new_folder(args.out)
    source = open_policy_source(args.policy)
    source.check_links()
    if args.adapters:
        from corl_jax.porting.adapters.writing import load_adapters, save_adapters

        save_adapters(
            load_adapters(source.workdir, args.policy), source.cfg, args.base_model, args.out
        )
    print(args.out)
    return 0
