"""Writes a policy as a model folder, in the layout of transformers or of the original code."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.commands.common import add_policy

LAYOUTS = ("transformers", "original")
DTYPES = ("stored", "float32", "bfloat16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    parser.add_argument(
        "--out", required=True, type=pathlib.Path, help="new folder; written whole or not at all"
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


def run(args: argparse.Namespace) -> int:
    """Loads, writes, says where."""
    from corl_jax.porting.janus.layouts import named_format
    from corl_jax.porting.policy_source import open_source
    from corl_jax.porting.writer import carried, save_folder
    from corl_jax.sampling.policy import Policy

    source, layout = open_source(args.policy), named_format(args.layout)
    policy = Policy.load(args.policy)
    dtype = (
        str(policy.params["language_model/lm_head/kernel"].dtype)
        if args.dtype == "stored"
        else args.dtype
    )
    save_folder(
        policy.params,
        policy.cfg,
        source.tokenizer,
        args.out,
        layout=layout,
        dtype=dtype,
        unused=carried(source.folder, layout),
    )
    print(args.out)
    return 0
