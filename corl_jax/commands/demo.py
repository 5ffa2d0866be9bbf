"""Serves a page on this machine: draw, ask, watch a run, compare two policies."""

from __future__ import annotations

import argparse
import pathlib
from typing import Annotated

from corl_jax.commands.common import add_devices, number, path_flag
from corl_jax.core.checks.config_block import Interval
from corl_jax.core.errors import UserError

Port = Annotated[int, Interval(ge=1, le=65535)]
RUNS = pathlib.Path("runs")
"""Where training puts work directories by default; those in it are offered on the page."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument(
        "--policy",
        default="tiny",
        help="tiny (the shipped base, default), a Hugging Face folder or a work directory",
    )
    parser.add_argument("--compare", default="", help="another policy, to compare it with")
    add_devices(parser)
    # ``run`` is the function of the command.
    parser.add_argument("--run", dest="workdir", type=path_flag, help="work directory to watch")

    # Where the page is.
    parser.add_argument("--port", type=number(Port), default=7860, help="default: 7860")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, which only this machine reaches)",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="also a public address for a week, through a tunnel of Gradio's makers",
    )


def run(args: argparse.Namespace) -> int:
    """Loads the policies and serves the page until Ctrl-C."""
    # Imported here, so that help is quick; Gradio before all that imports it.
    from corl_jax.demo import server

    server.import_gradio()
    server.check_port(args.host, args.port)
    if args.compare == args.policy:
        raise UserError(
            f"--compare must be another policy than --policy; got {args.policy!r} twice"
        )

    from corl_jax.demo.watching import check_run, find_runs

    watched = "" if args.workdir is None else str(check_run(args.workdir))
    with server.private_files():
        from corl_jax.demo.page import PageConfig, make_look, make_page
        from corl_jax.demo.policies import Policies

        policies = Policies(args.policy, args.devices)
        policies.get()
        if args.compare:
            policies.get(args.compare)

        # Whoever reaches the page may read what it shows of folders that are typed.
        typed = args.host in server.LOOPBACK and not args.share
        config = PageConfig(args.compare, watched, [str(path) for path in find_runs(RUNS)], typed)
        page = make_page(policies, config)
        server.bypass_proxy()
        server.serve(page, args.host, args.port, args.share, _announce, **make_look())
    return 0


def _announce(address: str) -> None:
    print(f"corl demo is at {address} (Ctrl-C ends it)", flush=True)
