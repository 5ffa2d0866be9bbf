"""Serves the page on a port of this machine, with no request to any other."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from corl_jax.core.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts at which only this machine can reach the page."""
NEAR_PORTS = 100
"""So many ports above one that is taken are tried."""
LAST_PORT = 65535


def check_port(host: str, port: int) -> None:
    """Checks that a server can listen, before a policy is loaded.

    Raises:
      UserError: the port is taken, which names the next free one; or this machine has no such host.
    """
    problem = _bind_problem(host, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRNOTAVAIL or isinstance(problem, socket.gaierror):
        raise UserError(
            f"--host must be an address of this machine; got {host!r} ({problem.strerror}); pass "
            "--host 127.0.0.1 for this machine alone, or --host 0.0.0.0 for all of its addresses"
        )
    if problem.errno == errno.EACCES:
        raise UserError(
            f"--port must be one that you may open; got {port} ({problem.strerror}); pass --port "
            "7860"
        )

    others = range(port + 1, min(port + NEAR_PORTS, LAST_PORT) + 1)
    free = next((other for other in others if _bind_problem(host, other) is None), None)
    advice = f"pass --port {free}" if free else "pass another --port"
    raise UserError(f"--port must be a free port; got {port}, which is in use; {advice}")


def _bind_problem(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        # As servers do, so that a port that has just been closed counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            return error
    return None


def import_gradio() -> Any:
    """Gradio, which must not report home: call it before anything else imports it.

    Raises:
      UserError: it is not installed.
    """
    # Read when Gradio is imported and when it loads something of the Hub.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"corl demo needs gradio, which cannot be imported ({error}); "
            "pip install 'corl_jax[demo]'"
        ) from None
    return gradio


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """A folder of this process for uploaded pictures, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="corl_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def bypass_proxy() -> None:
    """Gradio asks its own server whether it answers: such requests must go to no proxy."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def serve(
    page: Any, host: str, port: int, share: bool, announce: Callable[[str], None], **look: Any
) -> None:
    """Serves a page until Ctrl-C or SIGTERM.

    Args:
      page: Gradio's ``Blocks``.
      host, port: see ``check_port``.
      share: also at a public address, through a tunnel of Gradio's makers.
      announce: called with the address as soon as it answers.
      **look: theme, style and script, see ``launch`` of Gradio.

    Raises:
      UserError: the port was taken meanwhile, or there is no tunnel.
    """
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    old_handlers = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        try:
            page.launch(
                server_name=host,
                server_port=port,
                share=share,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                run_history=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                **look,
            )
        except OSError as error:
            raise UserError(f"--port must be a free port; got {port} ({error})") from None
        if share and page.share_url is None:
            raise UserError("--share must reach Gradio's server; it did not; leave it out")

        announce(page.share_url or f"http://{'localhost' if host == '0.0.0.0' else host}:{port}")
        # Waits in turns, since a signal is handled between them.
        while not stopped.wait(1.0):
            pass
    finally:
        page.close(verbose=False)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
