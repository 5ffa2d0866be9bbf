"""Writes a policy as a model folder, or its adapters for PEFT, and uploads it if asked to."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile
from typing import TYPE_CHECKING

from corl_jax.commands.common import add_policy, path_flag
from corl_jax.commands.export_options import (
    add_card_flags,
    add_upload_flags,
    check_flags,
    upload_of,
)

if TYPE_CHECKING:
    from corl_jax.porting.policy_source import PolicySource
    from corl_jax.report.card.facts import Layout

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
        help="where others find what the policy was made from: an id on the Hugging Face hub",
    )
    add_card_flags(parser)
    add_upload_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Checks everything, writes the folder, uploads it if asked to, and prints where it is."""
    # Imported here, so that help is quick.
    from corl_jax.porting.new_folder import check_new_folder
    from corl_jax.porting.policy_source import open_policy_source

    # Nothing is written, nor read from the policy, before all of this holds.
    check_flags(args)
    if args.out is not None:
        check_new_folder(args.out)
    destination = None
    if args.push is not None:
        from corl_jax.porting.hub_upload import check_destination

        destination = check_destination(upload_of(args))
    source = open_policy_source(args.policy)
    source.check_links()

    with contextlib.ExitStack() as stack:
        out = args.out
        if out is None:
            out = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "export"
        write = _write_adapters if args.adapters else _write_policy
        write(args, source, out)
        if destination is None:
            print(out)
            return 0

        from corl_jax.porting.hub_content import check_content
        from corl_jax.porting.hub_upload import upload_folder

        check_content(out, args.push)
        print(upload_folder(destination, out))
    return 0


def _write_policy(args: argparse.Namespace, source: PolicySource, out: pathlib.Path) -> None:
    """Writes the whole policy, with adapters merged into their kernels."""
    from corl_jax.models.janus.model import JANUS_TEXT_HEAD
    from corl_jax.porting.janus.layouts import get_layout
    from corl_jax.porting.writer import passthrough_entries, save_folder
    from corl_jax.sampling.policy import Policy

    # The head stands for all weights of the language model, which are stored in one dtype. Adapters
    # are added in float32, and fewer bits would lose small ones.
    layout, dtype = get_layout(args.layout), args.dtype
    if dtype == "stored":
        is_merged = source.adapters is not None
        dtype = "float32" if is_merged else str(source.param_dtype(JANUS_TEXT_HEAD))
    card = _card(args, source, args.layout, dtype, args.base_model)
    policy = Policy.load(args.policy)
    save_folder(
        policy.params,
        policy.cfg,
        source.tokenizer_folder,
        out,
        layout=layout,
        dtype=dtype,
        # Tensors of the policy's files that are not parameters of the model.
        passthrough=passthrough_entries(source.janus_folder, layout),
        extra_files=card,
    )


def _write_adapters(args: argparse.Namespace, source: PolicySource, out: pathlib.Path) -> None:
    """Writes the adapters of a run alone."""
    from corl_jax.porting.adapters.writing import load_adapters, save_adapters
    from corl_jax.report.card.run_facts import base_of_adapters

    workdir = source.workdir if source.adapters is None else None
    adapters = load_adapters(workdir, args.policy)
    assert workdir is not None  # or there would be none
    base = base_of_adapters(workdir, args.base_model)
    dtype = "float32" if args.dtype == "stored" else args.dtype
    card = _card(args, source, "adapters", dtype, base)
    save_adapters(adapters, source.cfg, base, out, dtype=dtype, extra_files=card)


def _card(
    args: argparse.Namespace, source: PolicySource, layout: Layout, dtype: str, base: str
) -> dict[str, bytes]:
    """The card's files by their path; none with ``--no-card``."""
    if args.no_card:
        return {}
    from corl_jax.report.card.policy_card import make_card

    return make_card(
        source,
        args.push or args.out.name,
        layout,
        dtype,
        license=args.license,
        base_model=base,
        results=args.results,
    )
