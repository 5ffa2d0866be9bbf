"""Writes a policy as a model folder, in the layout of transformers or of the original code."""

from __future__ import annotations

import argparse

from corl_jax.commands.common import add_policy, path_flag

# Repeated from ``porting``, which help must not wait for.
LAYOUTS = ("transformers", "original")
DTYPES = ("stored", "float32", "bfloat16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=path_flag,
        help="new folder; it is complete when it appears",
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
    """Loads the policy, writes the folder and prints its path."""
    # Imported here, so that help is quick.
    from corl_jax.models.janus.model import JANUS_TEXT_HEAD
    from corl_jax.porting.janus.layouts import get_layout
    from corl_jax.porting.policy_source import open_policy_source
    from corl_jax.porting.writer import check_new_folder, passthrough_entries, save_folder
    from corl_jax.sampling.policy import Policy

    check_new_folder(args.out)
    source, layout = open_policy_source(args.policy), get_layout(args.layout)
    source.check_links()
    policy = Policy.load(args.policy)

    # The head stands for all weights of the language model, which are stored in one dtype.
    stored_dtype = str(policy.params[JANUS_TEXT_HEAD].dtype)
    save_folder(
        policy.params,
        policy.cfg,
        source.tokenizer_folder,
        args.out,
        layout=layout,
        dtype=stored_dtype if args.dtype == "stored" else args.dtype,
        # Tensors of the policy's files that are not parameters of the model.
        passthrough=passthrough_entries(source.janus_folder, layout),
    )
    print(args.out)
    return 0
