"""Writes a policy as a Hugging Face folder that transformers loads."""

from __future__ import annotations

import argparse
import pathlib


def add_flags(parser: argparse.ArgumentParser) -> None:
    """``--policy`` and ``--out``."""
    parser.add_argument("--policy", required=True, help="a work directory, a Hugging Face folder, or tiny")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="new folder; written whole or not at all")


def run(args: argparse.Namespace) -> int:
    """Loads, writes, says where."""
    from corl_jax.porting.save import save_folder
    from corl_jax.porting.source import open_source
    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy)
    save_folder(policy.params, policy.cfg, open_source(args.policy).tokenizer, args.out)
    print(args.out)
    return 0
